"""The formats that a stored vector can have, and what each of them costs."""

from __future__ import annotations

__all__ = [
    "STORED_PRECISIONS",
    "StoredPrecision",
    "bytes_per_vector",
    "numbers_per_vector",
    "stored_bytes",
    "stored_precision",
]

from collections.abc import Mapping
from typing import Literal, TypeAlias, cast

import torch

from tercet.embeddings import Embeddings
from tercet.errors import UnknownNameError, nearest

StoredPrecision: TypeAlias = Literal["float32", "float16", "int8", "binary", "ubinary"]

# name -> torch's dtype of what is stored; eight dimensions share one number of the binary formats
STORED_PRECISIONS: Mapping[StoredPrecision, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "int8": torch.int8,
    "binary": torch.int8,
    "ubinary": torch.uint8,
}

# An id of a token as every store of sparse vectors has it: uint32.
_TOKEN_ID_BYTES = 4


def stored_precision(name: str) -> StoredPrecision:
    """The name, found to be one of those that vectors are stored in.

    Raises:
        UnknownNameError: it is not; the message gives the nearest.
    """
    if name not in STORED_PRECISIONS:
        raise UnknownNameError(
            f"{name!r} is no precision of stored vectors. {nearest(name, STORED_PRECISIONS)}"
        )
    return cast(StoredPrecision, name)


def numbers_per_vector(precision: StoredPrecision, dim: int) -> int:
    """How many numbers are stored for a vector of `dim` dimensions."""
    return -(-dim // 8) if precision in ("binary", "ubinary") else dim


def bytes_per_vector(precision: str, dim: int) -> int:
    """Bytes of one stored vector of `dim` dimensions, without what an index adds to it."""
    found = stored_precision(precision)
    return numbers_per_vector(found, dim) * STORED_PRECISIONS[found].itemsize


def stored_bytes(embeddings: Embeddings, precision: str) -> dict[str, int]:
    """Bytes of each output of these texts as stored, without what an index adds to it.

    Lexical weights are not quantised: each is a token's id in 4 bytes, and a weight in float32 where that is
    the precision, in float16 at any narrower one.

    Returns:
        Output -> bytes of all texts together; those of several parts add up.
    """
    found = stored_precision(precision)
    sizes: dict[str, int] = {}
    if embeddings.dense is not None:
        sizes["dense"] = len(embeddings) * bytes_per_vector(found, embeddings.dense.shape[1])
    if embeddings.sparse is not None:
        weight = 4 if found == "float32" else 2
        sizes["sparse"] = len(embeddings.sparse.token_ids) * (_TOKEN_ID_BYTES + weight)
    if embeddings.multivector is not None:
        vectors = embeddings.multivector
        sizes["multivector"] = len(vectors.vectors) * bytes_per_vector(found, vectors.dim)
    return sizes
