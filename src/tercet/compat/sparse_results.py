"""Sparse vectors in the forms of sentence-transformers' SparseEncoder: torch's tensors, there and back."""

from __future__ import annotations

__all__ = ["SparseLike", "as_vectors", "is_one", "rows_of", "tensor_of"]

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from tercet.embeddings import SparseVectors
from tercet.errors import InputError
from tercet.scoring.blocks import wide

SparseLike: TypeAlias = Tensor | np.ndarray | Sequence[Tensor] | Sequence[np.ndarray]


def tensor_of(vectors: SparseVectors, *, sparse: bool, device: str | torch.device) -> Tensor:
    """(texts, vocabulary): coalesced COO, or with every zero written out."""
    ids, weights = vectors.token_ids.to(device), vectors.weights.to(device)
    indices = torch.stack([vectors.rows.to(device), ids])
    shape = (len(vectors), vectors.vocabulary)
    if sparse:
        # What SparseVectors holds was checked when it was made.
        return torch.sparse_coo_tensor(indices, weights, shape, is_coalesced=True, check_invariants=False)
    made = weights.new_zeros(shape)
    made[indices[0], indices[1]] = weights
    return made


def rows_of(vectors: SparseVectors, *, sparse: bool, device: str | torch.device) -> list[Tensor]:
    """A tensor (vocabulary,) for each text."""
    if not sparse:
        return list(tensor_of(vectors, sparse=False, device=device))
    return [
        torch.sparse_coo_tensor(
            one.token_ids[None], one.weights, (one.vocabulary,), is_coalesced=True, check_invariants=False
        ).to(device)
        for one in vectors
    ]


def is_one(vectors: SparseLike) -> bool:
    """Whether it is a vector alone, not in a matrix or list."""
    return isinstance(vectors, (Tensor, np.ndarray)) and vectors.ndim == 1


def as_vectors(given: SparseLike) -> SparseVectors:
    """What is not zero, in float32 or wider, of a matrix or a list of vectors; one vector is a set of one.

    Raises:
        InputError: it is neither (texts, dim) nor (dim,), or its rows differ in width.
    """
    if not isinstance(given, (Tensor, np.ndarray)):
        parts = [_coo(part) for part in given]
        if not parts or any(part.ndim != 1 for part in parts) or len({part.shape for part in parts}) > 1:
            raise InputError(
                "Embeddings to compare must be a matrix, or a list of vectors of one width that is not empty."
            )
        given = torch.stack(parts)
    found = _coo(given)
    if found.ndim == 1:
        found = found.unsqueeze(0)
    if found.ndim != 2:
        raise InputError(f"Embeddings must be (texts, dim) or (dim,), not {tuple(found.shape)}.")
    found = found.coalesce()
    rows, ids = found.indices()
    counts = torch.bincount(rows, minlength=len(found))
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    values = found.values()
    return SparseVectors(ids, values.to(wide(values)), offsets, found.shape[1])


def _coo(given: object) -> Tensor:
    if not isinstance(given, (Tensor, np.ndarray)):
        raise InputError(f"Embeddings are of type {type(given).__name__}. Pass tensors or NumPy arrays.")
    tensor = torch.as_tensor(given)
    return tensor if tensor.layout == torch.sparse_coo else tensor.to_sparse()
