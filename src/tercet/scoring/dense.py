"""Dot products of dense vectors."""

from __future__ import annotations

__all__ = ["dense_pairs", "dense_scores"]

import torch
from torch import Tensor

from tercet.errors import InputError
from tercet.scoring.blocks import BLOCK, check_pairs, wide


def dense_scores(queries: Tensor, documents: Tensor) -> Tensor:
    """(queries, documents), the dot product of each (queries, dim) with each (documents, dim)."""
    _check(queries, documents)
    dtype = wide(queries, documents)
    queries = queries.to(dtype)
    if documents.dtype == dtype:
        return queries @ documents.T
    # blocks, so that there is never a second copy of all documents in the wider dtype
    rows = max(1, BLOCK // max(1, documents.shape[1]))
    scores = torch.empty(len(queries), len(documents), dtype=dtype, device=queries.device)
    for first in range(0, len(documents), rows):
        scores[:, first : first + rows] = queries @ documents[first : first + rows].to(dtype).T
    return scores


def dense_pairs(queries: Tensor, documents: Tensor) -> Tensor:
    """(pairs,), the dot product of each row of (pairs, dim) with the same row of the other."""
    _check(queries, documents)
    check_pairs(len(queries), len(documents))
    dtype = wide(queries, documents)
    return (queries.to(dtype) * documents.to(dtype)).sum(dim=1)


def _check(queries: Tensor, documents: Tensor) -> None:
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
        raise InputError(
            f"Dense vectors must be (queries, dim) and (documents, dim) of one width, "
            f"not {tuple(queries.shape)} and {tuple(documents.shape)}."
        )
