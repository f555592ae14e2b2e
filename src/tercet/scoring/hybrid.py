"""All kinds of scores together, with FlagEmbedding's weighted sum."""

from __future__ import annotations

__all__ = ["PairScores", "Weights", "score_matrix", "score_pairs", "weighted_sum"]

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any, TypeAlias

import torch
from torch import Tensor

from tercet.embeddings import Embeddings, MultiVectors, SparseVectors
from tercet.errors import InputError
from tercet.scoring.blocks import check_pairs, wide
from tercet.scoring.dense import dense_pairs, dense_scores
from tercet.scoring.late import Reduction, maxsim_pairs, maxsim_scores
from tercet.scoring.sparse import sparse_pairs, sparse_scores

Weights: TypeAlias = tuple[float, float, float]
EQUAL: Weights = (1.0, 1.0, 1.0)


def weighted_sum(
    dense: Tensor | None, sparse: Tensor | None, multivector: Tensor | None, weights: Weights = EQUAL
) -> Tensor:
    """FlagEmbedding's hybrid score, (w0 dense + w1 sparse + w2 multivector) / (w0 + w1 + w2).

    The scores have one shape. Of those that are None, neither the term nor its weight is there; the weights
    are of dense, sparse and multivector, in this order.

    Raises:
        InputError: no scores, differing shapes, or weights of those there that add up to nothing.
    """
    if len(weights) != 3:
        raise InputError(f"{len(weights)} weights were given; give three: of dense, sparse and multivector.")
    if not all(isfinite(float(weight)) for weight in weights):
        raise InputError(f"The weights {tuple(weights)} must be finite numbers.")
    terms = [
        (float(weight), scores)
        for weight, scores in zip(weights, (dense, sparse, multivector), strict=True)
        if scores is not None
    ]
    if not terms:
        raise InputError("There are no scores to add; give at least one of dense, sparse and multivector.")
    shapes = {tuple(scores.shape) for _, scores in terms}
    if len(shapes) > 1:
        raise InputError(f"Scores to be added differ in shape: {' and '.join(map(str, sorted(shapes)))}.")
    total = sum(weight for weight, _ in terms)
    if total == 0.0:
        raise InputError(f"The weights {tuple(weights)} of the scores that are there add up to 0.")
    dtype = wide(*(scores for _, scores in terms))
    return torch.stack([weight * scores.to(dtype) for weight, scores in terms]).sum(dim=0) / total


@dataclass(frozen=True, slots=True, eq=False)
class PairScores:
    """Scores of each kind, all of one shape; those of outputs that are not there are None.

    Attributes:
        dense: dot products of the dense vectors.
        sparse: dot products of the lexical weights.
        multivector: late interaction.
        dense_sparse: weighted sum of dense and sparse; None unless both are there and weigh something.
        combined: weighted sum of all that are there.
    """

    dense: Tensor | None
    sparse: Tensor | None
    multivector: Tensor | None
    dense_sparse: Tensor | None
    combined: Tensor

    @classmethod
    def of(
        cls,
        dense: Tensor | None,
        sparse: Tensor | None,
        multivector: Tensor | None,
        weights: Weights = EQUAL,
    ) -> PairScores:
        """The three kinds and their weighted sums."""
        combined = weighted_sum(dense, sparse, multivector, weights)
        both = None
        if dense is not None and sparse is not None and weights[0] + weights[1] != 0.0:
            both = weighted_sum(dense, sparse, None, weights)
        return cls(dense, sparse, multivector, both, combined)

    def to_dict(self) -> dict[str, Any]:
        """FlagEmbedding's keys in its order: colbert, sparse, dense, sparse+dense, colbert+sparse+dense.

        Values are Python floats in lists, nested as the scores are. A kind that is not there is left out, and
        the name of the last sum says what was added.
        """
        kinds = {"colbert": self.multivector, "sparse": self.sparse, "dense": self.dense}
        there = {name: scores for name, scores in kinds.items() if scores is not None}
        added = "+".join(there)
        if self.dense_sparse is not None:
            there["sparse+dense"] = self.dense_sparse
        there[added] = self.combined
        return {name: scores.tolist() for name, scores in there.items()}


def score_pairs(
    queries: Embeddings, documents: Embeddings, *, weights: Weights = EQUAL, reduction: Reduction = "mean"
) -> PairScores:
    """Scores (pairs,) of each query with the same document, by every output that both have."""
    check_pairs(len(queries), len(documents))
    late = partial(maxsim_pairs, reduction=reduction)
    return _scores(queries, documents, weights, dense_pairs, sparse_pairs, late)


def score_matrix(
    queries: Embeddings, documents: Embeddings, *, weights: Weights = EQUAL, reduction: Reduction = "mean"
) -> PairScores:
    """Scores (queries, documents) of each with each, by every output that both have."""
    late = partial(maxsim_scores, reduction=reduction)
    return _scores(queries, documents, weights, dense_scores, sparse_scores, late)


def _scores(
    queries: Embeddings,
    documents: Embeddings,
    weights: Weights,
    dense: Callable[[Tensor, Tensor], Tensor],
    sparse: Callable[[SparseVectors, SparseVectors], Tensor],
    late: Callable[[MultiVectors, MultiVectors], Tensor],
) -> PairScores:
    """Each kind that both sides have, and their sums."""
    if not set(queries.outputs) & set(documents.outputs):
        raise InputError(
            f"The queries have the outputs {', '.join(queries.outputs) or 'none'}, the documents "
            f"{', '.join(documents.outputs) or 'none'}; embed both with one output in common."
        )
    q, d = queries, documents
    return PairScores.of(
        None if q.dense is None or d.dense is None else dense(q.dense, d.dense),
        None if q.sparse is None or d.sparse is None else sparse(q.sparse, d.sparse),
        None if q.multivector is None or d.multivector is None else late(q.multivector, d.multivector),
        weights,
    )
