"""Embeddings of some texts in a file, with what it took to make them: written aside, then renamed."""

from __future__ import annotations

__all__ = ["Part", "read_part", "write_part"]

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tercet.embeddings import Embeddings, MultiVectors, SparseVectors
from tercet.errors import InputError


@dataclass(frozen=True, slots=True)
class Part:
    """What a part took.

    Attributes:
        texts, tokens: how many.
        seconds: of embedding them.
        truncated, recomputed: how many were cut, or computed again in float32.
    """

    texts: int
    tokens: int
    seconds: float
    truncated: int
    recomputed: int


def write_part(path: Path, embeddings: Embeddings, part: Part) -> None:
    """Writes them; no reader ever sees half of a file."""
    tensors = {
        "num_tokens": embeddings.num_tokens,
        "truncated": embeddings.truncated,
        "recomputed": embeddings.recomputed,
    }
    if embeddings.dense is not None:
        tensors["dense"] = embeddings.dense
    said = {"part": json.dumps(asdict(part))}
    if (sparse := embeddings.sparse) is not None:
        tensors |= {
            "sparse.token_ids": sparse.token_ids,
            "sparse.weights": sparse.weights,
            "sparse.offsets": sparse.offsets,
        }
        said["vocabulary"] = str(sparse.vocabulary)
    if (multivector := embeddings.multivector) is not None:
        tensors |= {"multivector.vectors": multivector.vectors, "multivector.offsets": multivector.offsets}
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside, metadata=said)
    aside.replace(path)


def read_part(path: Path) -> tuple[Embeddings, Part]:
    """The embeddings and what they took.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        sparse = multivector = None
        if "sparse.weights" in tensors:
            sparse = SparseVectors(
                tensors["sparse.token_ids"],
                tensors["sparse.weights"],
                tensors["sparse.offsets"],
                int(said["vocabulary"]),
            )
        if "multivector.vectors" in tensors:
            multivector = MultiVectors(tensors["multivector.vectors"], tensors["multivector.offsets"])
        embeddings = Embeddings(
            dense=tensors.get("dense"),
            sparse=sparse,
            multivector=multivector,
            num_tokens=tensors["num_tokens"],
            truncated=tensors["truncated"].to(torch.bool),
            recomputed=tensors["recomputed"].to(torch.bool),
        )
        return embeddings, Part(**json.loads(said["part"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: a part of an interrupted audit cannot be read ({error}). Remove the file."
        ) from error
