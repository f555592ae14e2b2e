"""Late interaction (MaxSim) of multi-vectors, ragged: no padding row ever takes part in a maximum."""

from __future__ import annotations

__all__ = ["Reduction", "maxsim", "maxsim_pairs", "maxsim_scores"]

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from tercet.embeddings import MultiVectors
from tercet.errors import InputError
from tercet.scoring.blocks import BLOCK, check_pairs, runs, wide

Reduction: TypeAlias = Literal["mean", "sum"]

# Query rows that meet a block of documents at once.
_QUERY_ROWS = 512


def maxsim(query: Tensor, documents: MultiVectors, *, reduction: Reduction = "mean") -> Tensor:
    """Late-interaction score of one query with each document (Khattab & Zaharia 2020; the mean is BGE-M3's).

    Args:
        query: (query_tokens, dim), unit length.
        documents: vectors of each document, unit length.
        reduction: over the query's tokens.

    Returns:
        (documents,), for unit rows the mean in [-1, 1], or the sum. A side without rows scores 0.
    """
    if query.ndim != 2:
        raise InputError(f"A query is (query_tokens, dim), not {tuple(query.shape)}.")
    offsets = torch.tensor([0, len(query)], device=query.device)
    return maxsim_scores(MultiVectors(query, offsets), documents, reduction=reduction)[0]


def maxsim_scores(queries: MultiVectors, documents: MultiVectors, *, reduction: Reduction = "mean") -> Tensor:
    """(queries, documents), the late-interaction score of each with each; see `maxsim`."""
    _check(queries, documents, reduction)
    dtype = wide(queries.vectors, documents.vectors)
    owners = torch.repeat_interleave(
        torch.arange(len(queries), device=queries.offsets.device), queries.lengths
    )
    scores = documents.vectors.new_zeros(len(queries), len(documents), dtype=dtype)
    for first in range(0, len(queries.vectors), _QUERY_ROWS):
        rows = queries.vectors[first : first + _QUERY_ROWS].to(dtype)
        owner = owners[first : first + _QUERY_ROWS]
        for start, end in runs(documents.lengths, most=max(1, BLOCK // max(len(rows), documents.dim))):
            best = _best(rows, documents[start:end])
            scores[:, start:end].index_add_(0, owner, best.T)
    if reduction == "mean":
        scores = scores / queries.lengths.clamp(min=1).to(dtype)[:, None]
    return scores


def maxsim_pairs(queries: MultiVectors, documents: MultiVectors, *, reduction: Reduction = "mean") -> Tensor:
    """(pairs,), the late-interaction score of each query with the same document; see `maxsim`."""
    _check(queries, documents, reduction)
    check_pairs(len(queries), len(documents))
    scores = [
        maxsim(query.vectors, document, reduction=reduction)
        for query, document in zip(queries, documents, strict=True)
    ]
    dtype = wide(queries.vectors, documents.vectors)
    return torch.cat(scores) if scores else queries.vectors.new_zeros(0, dtype=dtype)


def _best(rows: Tensor, documents: MultiVectors) -> Tensor:
    """(documents, rows), the largest dot product of each row with a document's vectors; 0 with none."""
    similarity = documents.vectors.to(rows.dtype) @ rows.T
    owner = torch.repeat_interleave(torch.arange(len(documents), device=rows.device), documents.lengths)
    best = similarity.new_full((len(documents), len(rows)), -torch.inf)
    best = best.scatter_reduce(0, owner[:, None].expand_as(similarity), similarity, "amax")
    return best.masked_fill((documents.lengths == 0)[:, None], 0.0)


def _check(queries: MultiVectors, documents: MultiVectors, reduction: str) -> None:
    if queries.dim != documents.dim:
        raise InputError(
            f"Multi-vectors must have one width, not (tokens, {queries.dim}) and (tokens, {documents.dim})."
        )
    if reduction not in ("mean", "sum"):
        raise InputError(f"reduction is {reduction!r}; give 'mean' or 'sum'.")
