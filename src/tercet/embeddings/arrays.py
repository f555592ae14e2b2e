"""The same results as NumPy arrays."""

from __future__ import annotations

__all__ = ["EmbeddingArrays", "MultiVectorArrays", "SparseArrays", "to_numpy"]

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """The values in NumPy, in the same memory where that can be; bfloat16, which NumPy lacks, as float32."""
    tensor = tensor.detach().cpu()
    array: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


@dataclass(frozen=True, slots=True, eq=False)
class SparseArrays:
    """`SparseVectors` in NumPy: token_ids (entries,), weights (entries,), offsets (texts + 1,)."""

    token_ids: NDArray[Any]
    weights: NDArray[Any]
    offsets: NDArray[Any]
    vocabulary: int


@dataclass(frozen=True, slots=True, eq=False)
class MultiVectorArrays:
    """`MultiVectors` in NumPy: vectors (tokens, dim), offsets (texts + 1,)."""

    vectors: NDArray[Any]
    offsets: NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingArrays:
    """`Embeddings` in NumPy, field by field; what was not asked for is None."""

    dense: NDArray[Any] | None
    sparse: SparseArrays | None
    multivector: MultiVectorArrays | None
    num_tokens: NDArray[Any]
    truncated: NDArray[Any]
    recomputed: NDArray[Any]
