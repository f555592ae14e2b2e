"""The model behind an adapter: loaded by it, or given; one for all adapters that ask for the same."""

from __future__ import annotations

__all__ = ["LoadOptions", "check_output", "loaded", "vectors"]

import threading
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

from tercet.embedder import Embedder, load
from tercet.errors import CheckpointError, InputError


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model is loaded; `tercet.load` says what each means. Plain values, so that they can be saved."""

    precision: str = "auto"
    device: str | None = None
    revision: str | None = None
    local_files_only: bool = False
    max_length: int | None = None
    plan: str | None = None


# A pipeline embeds queries in one component and documents in another: what both ask for is loaded once.
_kept: WeakValueDictionary[tuple[str, LoadOptions], Embedder] = WeakValueDictionary()
_loading = threading.Lock()


def loaded(model: str | Path | Embedder, options: LoadOptions) -> Embedder:
    """The model; the same object for the same options as long as someone holds it.

    Raises:
        InputError: options of loading beside a model that is loaded already.
    """
    if isinstance(model, Embedder):
        for field in fields(options):
            if getattr(options, field.name) != field.default:
                raise InputError(
                    f"{field.name} decides how a model is loaded, and this one is loaded already. Leave it "
                    "out, or give the model's folder or hub id."
                )
        return model
    if not isinstance(model, (str, Path)):
        raise InputError(
            f"The model is of type {type(model).__name__}. Give a folder, a hub id, or what "
            "tercet.load gives."
        )
    with _loading:
        key = (str(model), options)
        found = _kept.get(key)
        if found is None:
            found = load(
                model,
                precision=options.precision,
                device=options.device,
                revision=options.revision,
                local_files_only=options.local_files_only,
                max_length=options.max_length,
                plan=options.plan,
            )
            _kept[key] = found
        return found


def check_output(model: Embedder, output: Literal["dense", "sparse"]) -> None:
    """An error where the model makes no such vectors."""
    if output not in model.outputs:
        raise CheckpointError(
            f"{model.checkpoint.name} makes no {output} vectors but {', '.join(model.outputs)}. Choose "
            "another model, or the adapter for what it makes."
        )


def vectors(
    model: Embedder,
    texts: list[str],
    role: Literal["query", "document"],
    *,
    prompt: str | None = None,
    dimensions: int | None = None,
    normalize: bool | None = None,
) -> list[list[float]]:
    """Dense vectors as lists of Python's floats; options as `Embedder.encode`'s."""
    encode = model.encode_query if role == "query" else model.encode_document
    found = encode(texts, outputs="dense", prompt=prompt, dimensions=dimensions, normalize=normalize)
    assert found.dense is not None
    rows: list[list[float]] = found.dense.tolist()
    return rows
