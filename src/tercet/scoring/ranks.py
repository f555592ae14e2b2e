"""Fusion by rank, for scores that share no scale."""

from __future__ import annotations

__all__ = ["reciprocal_rank_fusion", "reciprocal_rank_scores"]

from collections.abc import Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from tercet.errors import InputError

Id = TypeVar("Id", bound=Hashable)


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[Id]], k: float = 60.0, weights: Sequence[float] | None = None
) -> list[tuple[Id, float]]:
    """One ranking of several, by the sum of weight / (k + rank) (Cormack, Clarke & Büttcher 2009).

    Args:
        rankings: ids, best first, each at most once a ranking; an id may be missing from some.
        k: softens the first ranks; ranks count from 1.
        weights: one a ranking; None for 1.

    Returns:
        (id, score), best first; equal scores in the order in which the ids first appear.
    """
    totals: dict[Id, float] = {}
    for number, (ranking, weight) in enumerate(
        zip(rankings, _shares(len(rankings), k, weights), strict=True)
    ):
        if len(set(ranking)) < len(ranking):
            raise InputError(f"Ranking {number} has an id twice; each id has one rank.")
        for rank, found in enumerate(ranking, start=1):
            totals[found] = totals.get(found, 0.0) + weight / (k + rank)
    return sorted(totals.items(), key=lambda entry: -entry[1])


def reciprocal_rank_scores(
    scores: Sequence[Tensor], k: float = 60.0, weights: Sequence[float] | None = None
) -> Tensor:
    """Scores of several methods fused by rank, in float64; see `reciprocal_rank_fusion`.

    Args:
        scores: of each method, (documents,) or (queries, documents); equal ones are ranked by position.
        k: softens the first ranks; ranks count from 1.
        weights: one a method; None for 1.

    Returns:
        The same shape: the sum over methods of weight / (k + rank among the query's documents).
    """
    shares = _shares(len(scores), k, weights)
    shapes = {tuple(part.shape) for part in scores}
    if len(shapes) != 1 or () in shapes:
        listed = " and ".join(map(str, sorted(shapes))) or "none"
        raise InputError(
            f"Scores to be fused must be (documents,) or (queries, documents), all alike, not {listed}."
        )
    fused = torch.zeros(scores[0].shape, dtype=torch.float64, device=scores[0].device)
    for part, weight in zip(scores, shares, strict=True):
        order = torch.argsort(part, dim=-1, descending=True, stable=True)
        ranks = torch.arange(1, part.shape[-1] + 1, dtype=torch.float64, device=part.device)
        fused.scatter_add_(-1, order, (weight / (k + ranks)).expand(part.shape))
    return fused


def _shares(rankings: int, k: float, weights: Sequence[float] | None) -> Sequence[float]:
    """One weight a ranking."""
    if k < 0:
        raise InputError(f"k is {k}; give 0 or more (60 is usual).")
    if weights is None:
        return [1.0] * rankings
    if len(weights) != rankings:
        raise InputError(f"{len(weights)} weights were given for {rankings} rankings; give one for each.")
    return weights
