"""What of a run must be the same for it to go on from a state, and what may be another."""

from __future__ import annotations

__all__ = ["check_goes_on", "lasting", "measured_by"]

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tercet.errors import InputError
from tercet.training.data import Source
from tercet.training.recipe import TrainRecipe

# What may change. None of it decides which examples a step learns from, nor what there is to be learned; with
# the rest as it was, steps that were taken stay as they are, and later ones are taken otherwise.
_FREE = (
    "output",
    "checkpoints",
    "validation",
    "tensorboard",
    "optimizer",
    "epochs",
    "steps",
    "precision",
    "gradient_checkpointing",
    "shard",
    "batch.forward_tokens",
    "lora.folder",
)
_FREE_OF_LOSSES = ("weight", "options")
# Of data: what a file holds decides, by its digest, not where it lies.
_FREE_OF_DATA = ("path",)


def lasting(recipe: TrainRecipe, sources: Sequence[Source], processes: int) -> dict[str, Any]:
    """What of a run decides what its steps learn from, for its states."""
    return {
        "recipe": json.dumps(_deciding(recipe), sort_keys=True),
        "model_folder": _folder(recipe.model),
        "data": [source.digest() for source in sources],
        "processes": processes,
        "measured_by": measured_by(recipe),
    }


def measured_by(recipe: TrainRecipe) -> str:
    """What of the recipe a measurement means; one by another cannot be compared with it."""
    how = dict(recipe.to_dict()["validation"] or {})
    for key in ("collection", "run"):
        if how.get(key) is not None:
            how[key] = _spelled(how[key])
    return json.dumps({key: how[key] for key in how if key not in ("every", "patience")}, sort_keys=True)


def check_goes_on(
    state: Mapping[str, Any], found: Path, recipe: TrainRecipe, sources: Sequence[Source], processes: int
) -> None:
    """An error where the run of a state was another one.

    Paths may be spelled otherwise, and files of data lie elsewhere, as long as they hold the same.

    Raises:
        InputError: the recipe changed in a key that decides what steps learn from, or what a file holds or
            the number of processes did.
    """
    before, now = json.loads(state["recipe"]), json.loads(json.dumps(_deciding(recipe)))
    before = {key: value for key, value in before.items() if value is not False}
    folder = _folder(recipe.model)
    for key in dict.fromkeys([*now, *before]):
        if key == "model" and folder is not None and folder == state.get("model_folder"):
            continue  # the same folder in another spelling
        if now.get(key) != before.get(key) and not _free(key):
            raise InputError(
                f"{found}: {key} was {_shown(before.get(key))} and is {_shown(now.get(key))} now; a run goes "
                "on as it began, but for the optimizer, the length, the precision, weights and options of "
                "losses, validation, checkpoints and output. Put it back, or start anew in another folder."
            )
    for number, (source, digest) in enumerate(zip(sources, state["data"], strict=True)):
        if source.digest() != digest:
            raise InputError(
                f"data[{number}]: {source.recipe.path} is not what it was when {found} was written; a run "
                "goes on as it began. Put the file back, or start anew in another folder."
            )
    if state["processes"] != processes:
        raise InputError(
            f"{found}: the run had {state['processes']} processes, now there are {processes}; "
            "batches would be others. Start as many, or anew in another folder."
        )


def _deciding(recipe: TrainRecipe) -> dict[str, Any]:
    """Path of a key -> its value, of all that may not change when a run goes on.

    What is null or false is left out: a key that came later than a state was off when it was written.
    """
    return {
        key: value
        for key, value in _leaves(recipe.to_dict(), "")
        if value is not None and value is not False and not _free(key)
    }


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{number}]")
    else:
        yield path, value


def _free(key: str) -> bool:
    inner = key.partition("].")[2].partition(".")[0]
    if key.startswith("losses[") and inner in _FREE_OF_LOSSES:
        return True
    if key.startswith("data[") and inner in _FREE_OF_DATA:
        return True
    return any(key == free or key.startswith(f"{free}.") for free in _FREE)


def _folder(model: str) -> str | None:
    """The folder of a model in one spelling; None of a hub id."""
    return str(Path(model).resolve()) if Path(model).is_dir() else None


def _spelled(path: str) -> str:
    """A path in one spelling: by the current folder what lies in it, so that all of it may be moved."""
    found, here = Path(path).resolve(), Path.cwd()
    return str(found.relative_to(here) if found.is_relative_to(here) else found)


def _shown(value: object) -> str:
    return "not given" if value is None else repr(value)
