"""Sparse scores from token ids and weights, with exact gradients and no tensor as wide as the vocabulary.

FlagEmbedding's training code writes the weights of a text into (tokens, vocabulary) and takes the maximum
over its tokens. Here a text has one entry for each of its token ids, found by sorting, and two texts meet in
the few ids that occur on both sides: memory is that of the tokens, and a block of a stated size.
"""

from __future__ import annotations

__all__ = ["BLOCK_BYTES", "num_zero", "pool_tokens", "sparse_group_scores", "sparse_scores"]

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tercet.embeddings import SparseVectors
from tercet.errors import InputError
from tercet.scoring.blocks import wide

# Both tables of one block: small beside a training step, large enough for full speed of a matrix product.
BLOCK_BYTES = 16 << 20


def pool_tokens(
    token_ids: Tensor, weights: Tensor, cu_seqlens: Tensor, *, vocabulary: int, special_ids: Tensor
) -> SparseVectors:
    """The largest weight of each token id of each text, as `amax` scatters it into (texts, vocabulary) zeros.

    The gradient is that of the dense formula: of repeats that share the largest weight each gets an equal
    part, and a weight below 0 gets none, because the zero that the column began with is larger.
    (FlagEmbedding trains with the maximum of a (tokens, vocabulary) tensor, which gives everything to one of
    the equal repeats; the sum over them is the same.)

    Args:
        token_ids: (tokens,) int64 of all texts, end to end.
        weights: (tokens,) after the ReLU.
        cu_seqlens: (texts + 1,) where each text begins.
        vocabulary: number of rows of the embedding table; no tensor has this size.
        special_ids: (specials,) int64, left out: FlagEmbedding's are cls, eos, pad and unk.

    Returns:
        Entries of every other id that occurs, those of weight 0 among them; float32, or float64 as it came.
    """
    if token_ids.ndim != 1 or token_ids.shape != weights.shape:
        raise InputError(
            f"Token ids and weights must both be (tokens,), not {tuple(token_ids.shape)} and "
            f"{tuple(weights.shape)}. Squeeze a head's last dimension away."
        )
    texts, device = len(cu_seqlens) - 1, token_ids.device
    text = torch.repeat_interleave(torch.arange(texts, device=device), cu_seqlens.diff().long())
    kept = (~torch.isin(token_ids, special_ids.to(device))).nonzero()[:, 0]
    keys, place = torch.unique(text[kept] * vocabulary + token_ids[kept], return_inverse=True)
    values = weights[kept].to(wide(weights))
    largest = values.new_zeros(len(keys)).scatter_reduce(0, place, values, "amax")
    counts = torch.bincount(keys // vocabulary, minlength=texts)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return SparseVectors(keys % vocabulary, largest, offsets, vocabulary)


def sparse_scores(
    queries: SparseVectors, passages: SparseVectors, *, block_bytes: int = BLOCK_BYTES
) -> Tensor:
    """(queries, passages), the sum over shared token ids of both weights' product; differentiable once.

    Beyond the answer and a few numbers an entry, memory is at most `block_bytes`, forward and backward,
    unless one column alone, a number a text, is larger.
    """
    _check(queries, passages)
    dtype = wide(queries.weights, passages.weights)
    meeting = _Meeting(queries, passages, block_bytes, dtype.itemsize)
    left = queries.weights[meeting.left.entries].to(dtype)
    right = passages.weights[meeting.right.entries].to(dtype)
    scores: Tensor = _SparseDot.apply(left, right, meeting)  # type: ignore[no-untyped-call]
    return scores


def sparse_group_scores(queries: SparseVectors, passages: SparseVectors) -> Tensor:
    """(queries, group), the scores of each query with its own passages, which follow one another."""
    _check(queries, passages)
    group = len(passages) // max(1, len(queries))
    dtype = wide(queries.weights, passages.weights)
    keys = queries.keys()
    wanted = passages.rows // max(1, group) * passages.vocabulary + passages.token_ids
    place = torch.searchsorted(keys, wanted)
    shared = (place < len(keys)).nonzero()[:, 0]
    shared = shared[keys[place[shared]] == wanted[shared]]
    products = queries.weights[place[shared]].to(dtype) * passages.weights[shared].to(dtype)
    scores = products.new_zeros(len(passages)).index_add(0, passages.rows[shared], products)
    return scores.view(len(queries), group)


def num_zero(vectors: SparseVectors) -> Tensor:
    """How many texts have no weight above 0: their scores are 0, and no gradient reaches them."""
    alive = torch.zeros(len(vectors), dtype=torch.bool, device=vectors.weights.device)
    alive[vectors.rows[vectors.weights > 0]] = True
    return (~alive).sum()


class _Side:
    """The entries of one side whose token id occurs on the other too, ordered by column."""

    def __init__(self, vectors: SparseVectors, shared: Tensor) -> None:
        place = torch.searchsorted(shared, vectors.token_ids)
        found = (place < len(shared)).nonzero()[:, 0]
        found = found[shared[place[found]] == vectors.token_ids[found]]
        self.columns, order = place[found].sort(stable=True)
        self.entries = found[order]
        self.texts = vectors.rows[self.entries]
        self.num_texts = len(vectors)

    def table(self, weights: Tensor, entries: slice, first: int, width: int) -> Tensor:
        """(texts, width), the weights of some columns from `first` on."""
        table = weights.new_zeros(self.num_texts, width)
        table[self.texts[entries], self.columns[entries] - first] = weights[entries]
        return table

    def read(self, table: Tensor, entries: slice, first: int) -> Tensor:
        """(entries,), what stands in a table's cells."""
        return table[self.texts[entries], self.columns[entries] - first]


class _Meeting:
    """Queries and passages in the columns that both have, taken `width` columns at a time."""

    def __init__(
        self, queries: SparseVectors, passages: SparseVectors, block_bytes: int, itemsize: int
    ) -> None:
        ids = torch.unique(queries.token_ids)
        ids = ids[torch.isin(ids, passages.token_ids)]
        self.left, self.right = _Side(queries, ids), _Side(passages, ids)
        self.num_columns = len(ids)
        self.width = max(1, block_bytes // (itemsize * max(1, len(queries) + len(passages))))

    def blocks(self) -> Iterator[tuple[int, int, slice, slice]]:
        """First column, number of columns, and the entries of both sides."""
        starts = torch.arange(0, self.num_columns, self.width, device=self.left.columns.device)
        left = [*torch.searchsorted(self.left.columns, starts).tolist(), len(self.left.columns)]
        right = [*torch.searchsorted(self.right.columns, starts).tolist(), len(self.right.columns)]
        for number, first in enumerate(range(0, self.num_columns, self.width)):
            width = min(self.width, self.num_columns - first)
            yield first, width, slice(*left[number : number + 2]), slice(*right[number : number + 2])


class _SparseDot(torch.autograd.Function):
    """The product of two sparse matrices, a block of columns at a time as dense tables."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, meeting: _Meeting) -> Tensor:
        ctx.save_for_backward(left, right)
        ctx.meeting = meeting
        scores = left.new_zeros(meeting.left.num_texts, meeting.right.num_texts)
        with torch.autocast(left.device.type, enabled=False):
            for first, width, mine, theirs in meeting.blocks():
                rows = meeting.left.table(left, mine, first, width)
                scores.addmm_(rows, meeting.right.table(right, theirs, first, width).T)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        left, right = ctx.saved_tensors
        meeting: _Meeting = ctx.meeting
        of_left, of_right = torch.zeros_like(left), torch.zeros_like(right)
        with torch.autocast(left.device.type, enabled=False):
            for first, width, mine, theirs in meeting.blocks():
                # One side after the other: a table, its product, and what the other side's entries read. None
                # has a name, so that each is gone before the next.
                of_left[mine] = meeting.left.read(
                    grad @ meeting.right.table(right, theirs, first, width), mine, first
                )
                of_right[theirs] = meeting.right.read(
                    grad.T @ meeting.left.table(left, mine, first, width), theirs, first
                )
        return of_left, of_right, None


def _check(queries: SparseVectors, passages: SparseVectors) -> None:
    if queries.vocabulary != passages.vocabulary:
        raise InputError(
            f"Sparse vectors of different vocabularies have no common tokens: {queries.vocabulary} and "
            f"{passages.vocabulary}. Train both sides with one tokenizer."
        )
