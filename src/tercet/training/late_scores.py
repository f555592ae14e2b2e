"""MaxSim in blocks, with exact gradients: never the similarities of all tokens with all tokens."""

from __future__ import annotations

__all__ = ["BLOCK_BYTES", "STORED_BYTES", "late_group_scores", "late_scores"]

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tercet.embeddings import MultiVectors
from tercet.errors import InputError
from tercet.scoring.blocks import wide
from tercet.scoring.late import Reduction

# Similarities of one block; a few of this size are alive at once.
BLOCK_BYTES = 16 << 20
# Which passage token won, four bytes for each query token and passage; past this they are found again.
STORED_BYTES = 64 << 20
_QUERY_ROWS = 512


def late_scores(
    queries: MultiVectors,
    passages: MultiVectors,
    *,
    reduction: Reduction = "mean",
    block_bytes: int = BLOCK_BYTES,
    stored_bytes: int = STORED_BYTES,
) -> Tensor:
    """(queries, passages), over query tokens the mean or sum of the largest dot product with a passage.

    The gradient goes to the winning token of each maximum, of equal ones to the first. A text without rows
    scores 0 with all others and gets no gradient.

    Memory beyond the answer is at most four blocks of `block_bytes` (unless a passage alone is larger), and
    the winners where they fit into `stored_bytes`; where they do not, the backward pass finds them again, by
    a matrix product more.

    Args:
        queries: vectors of each query's tokens; float64 is computed as it is, all else in float32.
        passages: those of the passages.
        reduction: over the query's tokens; the mean is BGE-M3's, the sum ColBERT's.
    """
    if queries.dim != passages.dim:
        raise InputError(
            f"Multi-vectors must have one width, not (tokens, {queries.dim}) and (tokens, {passages.dim})."
        )
    if reduction not in ("mean", "sum"):
        raise InputError(f"reduction is {reduction!r}; give 'mean' or 'sum'.")
    dtype = wide(queries.vectors, passages.vectors)
    left, right = queries.vectors.to(dtype), passages.vectors.to(dtype)
    store = 4 * len(left) * len(passages) <= stored_bytes
    layout = _Layout(queries.offsets, passages.offsets, max(1, block_bytes // dtype.itemsize), store)
    scores: Tensor = _MaxSim.apply(left, right, layout)  # type: ignore[no-untyped-call]
    return scores / queries.lengths.clamp(min=1).to(dtype)[:, None] if reduction == "mean" else scores


def late_group_scores(
    queries: MultiVectors,
    passages: MultiVectors,
    *,
    reduction: Reduction = "mean",
    block_bytes: int = BLOCK_BYTES,
    stored_bytes: int = STORED_BYTES,
) -> Tensor:
    """(queries, group), the scores of each query with its own passages, which follow one another."""
    group = len(passages) // max(1, len(queries))
    rows = [
        late_scores(
            queries[query],
            passages[query * group : (query + 1) * group],
            reduction=reduction,
            block_bytes=block_bytes,
            stored_bytes=stored_bytes // max(1, len(queries)),
        )
        for query in range(len(queries))
    ]
    return torch.cat(rows) if rows else queries.vectors.new_zeros(0, group)


@dataclass(frozen=True, slots=True)
class _Passages:
    """Some passages of similar length, padded.

    Attributes:
        texts: (passages,) int64, which ones.
        rows: (passages, longest) int64, their rows; padding points at row 0.
        padding: (passages, longest) bool, or None where there is none.
    """

    texts: Tensor
    rows: Tensor
    padding: Tensor | None


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where texts begin, and how much is worked on at once."""

    queries: Tensor
    passages: Tensor
    numbers: int
    store: bool

    def owners(self) -> Tensor:
        """(query rows,), the query of each."""
        texts = torch.arange(len(self.queries) - 1, device=self.queries.device)
        return torch.repeat_interleave(texts, self.queries.diff())

    def runs(self, width: int) -> Iterator[_Passages]:
        """Passages in the order of their lengths, as many at a time as fit, but none without rows."""
        lengths = self.passages.diff()
        order = lengths.argsort(stable=True)
        sizes = lengths[order].tolist()
        # What a passage token costs: its similarities, or its vector.
        most = max(1, self.numbers // max(width, _QUERY_ROWS))
        start = next((place for place, size in enumerate(sizes) if size), len(sizes))
        while start < len(sizes):
            end = start + 1
            while end < len(sizes) and sizes[end] * (end + 1 - start) <= most:
                end += 1
            texts = order[start:end]
            span = torch.arange(sizes[end - 1], device=texts.device)
            padding = span >= lengths[texts][:, None]
            rows = (self.passages[texts][:, None] + span).masked_fill(padding, 0)
            yield _Passages(texts, rows, padding if sizes[start] != sizes[end - 1] else None)
            start = end


def _similarities(passages: Tensor, run: _Passages, queries: Tensor) -> Tensor:
    """(passages, longest, query rows); -inf where there is no token."""
    found = passages @ queries.T
    return found if run.padding is None else found.masked_fill_(run.padding[:, :, None], -torch.inf)


class _MaxSim(torch.autograd.Function):
    """Sums of maxima, block by block; the gradient by products with a matrix that is 0 but at winners."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, passages: Tensor, layout: _Layout) -> Tensor:
        owners = layout.owners()
        scores = queries.new_zeros(len(layout.queries) - 1, len(layout.passages) - 1)
        winners = []
        with torch.autocast(queries.device.type, enabled=False):
            for run in layout.runs(queries.shape[1]):
                vectors = passages[run.rows]
                for first in range(0, len(queries), _QUERY_ROWS):
                    rows = slice(first, first + _QUERY_ROWS)
                    best, winner = _similarities(vectors, run, queries[rows]).max(dim=1)
                    sums = scores.new_zeros(len(scores), len(run.texts)).index_add_(0, owners[rows], best.T)
                    scores[:, run.texts] += sums
                    if layout.store:
                        winners.append(winner.to(torch.int32))
        ctx.save_for_backward(queries, passages, *winners)
        ctx.layout = layout
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        queries, passages, *winners = ctx.saved_tensors
        layout: _Layout = ctx.layout
        stored, owners = iter(winners), layout.owners()
        of_queries, of_passages = torch.zeros_like(queries), torch.zeros_like(passages)
        with torch.autocast(queries.device.type, enabled=False):
            for run in layout.runs(queries.shape[1]):
                vectors = passages[run.rows]
                added = torch.zeros_like(vectors)
                for first in range(0, len(queries), _QUERY_ROWS):
                    rows = slice(first, first + _QUERY_ROWS)
                    mine = queries[rows]
                    winner = (
                        next(stored).long()
                        if layout.store
                        else _similarities(vectors, run, mine).argmax(dim=1)
                    )
                    weight = grad[owners[rows]][:, run.texts].T
                    chosen = grad.new_zeros(*run.rows.shape, len(mine))
                    chosen.scatter_(1, winner[:, None], weight[:, None])
                    added += chosen @ mine
                    of_queries[rows] += chosen.flatten(0, 1).T @ vectors.flatten(0, 1)
                # Padding never wins, so what it adds to row 0 is 0.
                of_passages.index_add_(0, run.rows.flatten(), added.flatten(0, 1))
        return of_queries, of_passages, None
