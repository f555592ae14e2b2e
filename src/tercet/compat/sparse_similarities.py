"""How alike two sets of sparse vectors are: sentence-transformers' four measures, by what is not zero."""

from __future__ import annotations

__all__ = ["SPARSE_PAIRWISE", "SPARSE_SIMILARITIES"]

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from tercet.compat.sparse_results import SparseLike, as_vectors, is_one
from tercet.embeddings import SparseVectors
from tercet.errors import InputError
from tercet.scoring import sparse_pairs, sparse_scores
from tercet.scoring.blocks import wide

# Vectors of either side that are written out at a time, in the columns that they have.
_BLOCK = 256


def _squares(vectors: SparseVectors) -> Tensor:
    """(texts,), the squared length of each."""
    sums = vectors.weights.new_zeros(len(vectors))
    return sums.index_add(0, vectors.rows, vectors.weights.square())


def _unit(vectors: SparseVectors) -> SparseVectors:
    lengths = _squares(vectors).sqrt()
    # A zero that is written out has no length.
    return replace(vectors, weights=vectors.weights / lengths.clamp(min=1e-12)[vectors.rows])


def _cosine(left: SparseVectors, right: SparseVectors) -> Tensor:
    return sparse_scores(_unit(left), _unit(right))


def _euclidean(left: SparseVectors, right: SparseVectors) -> Tensor:
    # In float64: of near vectors, the difference of products keeps only half the digits.
    first, second = left.to(torch.float64), right.to(torch.float64)
    squares = _squares(first)[:, None] + _squares(second) - 2 * sparse_scores(first, second)
    return -squares.clamp(min=0).sqrt().to(wide(left.weights, right.weights))


def _written_out(vectors: SparseVectors, dims: Tensor) -> Tensor:
    """(texts, dims), zeros included; `dims` ascend and are all that the vectors have."""
    table = vectors.weights.new_zeros(len(vectors), len(dims))
    table[vectors.rows, torch.searchsorted(dims, vectors.token_ids)] = vectors.weights
    return table


def _manhattan(left: SparseVectors, right: SparseVectors) -> Tensor:
    found = left.weights.new_zeros(len(left), len(right))
    for row in range(0, len(left), _BLOCK):
        for column in range(0, len(right), _BLOCK):
            one, other = left[row : row + _BLOCK], right[column : column + _BLOCK]
            dims = torch.unique(torch.cat([one.token_ids, other.token_ids]))
            distances = torch.cdist(_written_out(one, dims), _written_out(other, dims), p=1.0)
            found[row : row + _BLOCK, column : column + _BLOCK] = -distances
    return found


def _cosine_pairs(left: SparseVectors, right: SparseVectors) -> Tensor:
    return sparse_pairs(_unit(left), _unit(right))


def _differences(left: SparseVectors, right: SparseVectors) -> tuple[Tensor, Tensor]:
    """(entries,) pair and difference of every dimension that either vector of a pair has."""
    keys, places = torch.unique(torch.cat([left.keys(), right.keys()]), return_inverse=True)
    values = torch.cat([left.weights, -right.weights])
    return keys // left.vocabulary, values.new_zeros(len(keys)).index_add(0, places, values)


def _euclidean_pairs(left: SparseVectors, right: SparseVectors) -> Tensor:
    pairs, differences = _differences(left, right)
    return -differences.new_zeros(len(left)).index_add(0, pairs, differences.square()).sqrt()


def _manhattan_pairs(left: SparseVectors, right: SparseVectors) -> Tensor:
    pairs, differences = _differences(left, right)
    return -differences.new_zeros(len(left)).index_add(0, pairs, differences.abs())


_Measure = Callable[[SparseVectors, SparseVectors], Tensor]


def _both(first: SparseLike, second: SparseLike) -> tuple[SparseVectors, SparseVectors]:
    left, right = as_vectors(first), as_vectors(second)
    if left.vocabulary != right.vocabulary:
        raise InputError(
            f"Embeddings of {left.vocabulary} and {right.vocabulary} dimensions cannot be compared: encode "
            "all with one model."
        )
    dtype = wide(left.weights, right.weights)
    return left.to(dtype), right.to(dtype)


def _of_all(measure: _Measure) -> Callable[[SparseLike, SparseLike], Tensor]:
    def measured(first: SparseLike, second: SparseLike) -> Tensor:
        return measure(*_both(first, second))

    return measured


def _of_pairs(measure: _Measure) -> Callable[[SparseLike, SparseLike], Tensor]:
    def measured(first: SparseLike, second: SparseLike) -> Tensor:
        left, right = _both(first, second)
        if len(left) != len(right) and 1 not in (len(left), len(right)):
            raise InputError(
                f"{len(left)} and {len(right)} embeddings make no pairs. Pass as many, or one against all."
            )
        pairs = max(len(left), len(right))
        sides = (side if len(side) == pairs else side[[0] * pairs] for side in (left, right))
        scores = measure(*sides)
        return scores[0] if is_one(first) and is_one(second) else scores

    return measured


# name -> (first, dim), (second, dim) -> (first, second); distances are negative, so that more is more alike
SPARSE_SIMILARITIES: Mapping[str, Callable[[SparseLike, SparseLike], Tensor]] = {
    "cosine": _of_all(_cosine),
    "dot": _of_all(sparse_scores),
    "euclidean": _of_all(_euclidean),
    "manhattan": _of_all(_manhattan),
}
# name -> (pairs, dim) twice -> (pairs,)
SPARSE_PAIRWISE: Mapping[str, Callable[[SparseLike, SparseLike], Tensor]] = {
    "cosine": _of_pairs(_cosine_pairs),
    "dot": _of_pairs(sparse_pairs),
    "euclidean": _of_pairs(_euclidean_pairs),
    "manhattan": _of_pairs(_manhattan_pairs),
}
