"""The two heads that BGE-M3 keeps in files of its own: lexical weights and one vector a token."""

from __future__ import annotations

__all__ = ["HEAD_FILES", "read_heads"]

from collections.abc import Mapping
from pathlib import Path

from tercet.checkpoint.contents import ModuleSpec
from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.paths import inside
from tercet.checkpoint.torch_file import read_torch_header
from tercet.checkpoint.weights import Remote
from tercet.errors import CheckpointError

HEAD_FILES = {"sparse_linear": "sparse_linear.pt", "colbert_linear": "colbert_linear.pt"}


def read_heads(
    folder: Path, hidden: int, remote: Remote | None = None
) -> tuple[tuple[ModuleSpec, ...], tuple[str, ...]]:
    """The heads that are there, and a note where only one of the two is.

    Raises:
        CheckpointError: a head's file is damaged or does not fit the encoder.
    """
    heads: list[ModuleSpec] = []
    for kind, name in HEAD_FILES.items():
        path = inside(folder, name, said_by=name)
        header = (remote or {}).get(name)
        if header is None and path.is_file():
            header = read_torch_header(path)
        if header is not None:
            heads.append(_head(path, kind, header, hidden))
    notes: tuple[str, ...] = ()
    if len(heads) == 1:
        missing = next(name for kind, name in HEAD_FILES.items() if kind != heads[0].kind)
        notes = (f"{heads[0].where} is there and {missing} is not: its output cannot be made.",)
    return tuple(heads), notes


def _head(path: Path, kind: str, tensors: Mapping[str, TensorInfo], hidden: int) -> ModuleSpec:
    if set(tensors) != {"weight", "bias"}:
        raise CheckpointError(
            f"{path} holds {', '.join(sorted(tensors)) or 'nothing'}, expected 'weight' and 'bias'. "
            "Fetch the file again."
        )
    weight, bias = tensors["weight"], tensors["bias"]
    fits = len(weight.shape) == 2 and weight.shape[1] == hidden and weight.is_float and bias.is_float
    if kind == "sparse_linear":
        fits = fits and weight.shape[0] == 1
    if not fits or bias.shape != weight.shape[:1]:
        raise CheckpointError(
            f"{path}: '{kind}.weight' is {weight.shape} and its bias {bias.shape}, the encoder's hidden size "
            f"is {hidden}. The head belongs to another model; remove or replace {path.name}."
        )
    return ModuleSpec(kind, path.name, {}, tensors)
