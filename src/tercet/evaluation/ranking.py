"""How much rankings change: overlap, rank-biased overlap, Kendall's tau, ties that come up."""

from __future__ import annotations

__all__ = ["RankingChange", "RankingMeter", "kendall_tau", "rank_biased_overlap", "top_overlap"]

import math
from array import array
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tercet.errors import InputError, NonFiniteError
from tercet.scoring import best


def top_overlap(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Share of the one ranking's items that are in the other, too; of the longer one where they differ.

    Two empty rankings overlap altogether.
    """
    longest = max(len(first), len(second))
    return len(set(first) & set(second)) / longest if longest else 1.0


def rank_biased_overlap(first: Sequence[Hashable], second: Sequence[Hashable], p: float = 0.9) -> float:
    """Rank-biased overlap, extrapolated (Webber, Moffat & Zobel 2010, equation 32), 0 to 1.

    Agreement at each depth, weighted by p to the depth: at p = 0.9 the first ten ranks have 86 % of the
    weight. What lies behind the rankings' ends is taken to agree as much as what was seen. Ties are not
    considered; equal rankings have exactly 1.

    Args:
        first, second: items, best first, each at most once; the lengths may differ.
        p: above 0 and below 1.

    Raises:
        InputError: another p, an item twice in a ranking.
    """
    if not 0.0 < p < 1.0:
        raise InputError(f"p is {p}; give a number between 0 and 1 (0.9 looks at about ten ranks).")
    for ranking in (first, second):
        if len(set(ranking)) < len(ranking):
            raise InputError("A ranking has an item twice; each item has one rank.")
    if list(first) == list(second):
        return 1.0
    short, long = sorted((first, second), key=len)
    if not short:
        return 0.0
    seen: set[Hashable] = set()
    common = 0
    at_short = 0.0
    total = 0.0
    for depth, item in enumerate(long, start=1):
        fresh = [item] if depth > len(short) else [item, short[depth - 1]]
        for one in fresh:
            common += one in seen
            seen.add(one)
        if depth == len(short):
            at_short = common
        total += common / depth * p**depth
        if depth > len(short):
            total += at_short * (depth - len(short)) / (len(short) * depth) * p**depth
    rest = (common - at_short) / len(long) + at_short / len(short)
    return min(1.0, (1.0 - p) / p * total + rest * p ** len(long))


def kendall_tau(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Kendall's tau-b of two scores of the same items (Kendall 1945), -1 to 1, which allows for ties.

    Returns:
        NaN where there are fewer than two items, or one side has equal scores only.
    """
    return _pairs(first, second).tau


@dataclass(frozen=True, slots=True)
class RankingChange:
    """How rankings of the same documents for the same queries differ from a reference, top k against top k.

    Attributes:
        queries, k, p: what was compared; p is that of the rank-biased overlap.
        overlap_mean, overlap_worst: share of the reference's top k that is still there.
        rbo_mean, rbo_worst: rank-biased overlap of both top k.
        tau_mean: Kendall's tau-b over the union of both top k, by both scores; None where it has no value
            for any query.
        tau_queries: queries for which it has one.
        first_changed: queries with another best document.
        pairs: pairs of documents of these unions, over all queries.
        ties_created, ties_broken: pairs whose scores were different and became equal, or the reverse.
        worst_queries: (position of the query, its rank-biased overlap), the smallest first.
    """

    queries: int
    k: int
    p: float
    overlap_mean: float
    overlap_worst: float
    rbo_mean: float
    rbo_worst: float
    tau_mean: float | None
    tau_queries: int
    first_changed: int
    pairs: int
    ties_created: int
    ties_broken: int
    worst_queries: tuple[tuple[int, float], ...]

    def to_json(self) -> dict[str, Any]:
        """Field -> plain value."""
        return asdict(self)


class RankingMeter:
    """Takes scores in parts of the queries, and keeps three numbers of each query."""

    def __init__(self, k: int = 10, *, p: float = 0.9, most_queries: int = 10) -> None:
        """An empty one.

        Args:
            k: how deep rankings are compared.
            p: of the rank-biased overlap.
            most_queries: how many of those that change most are named.
        """
        if k < 1:
            raise InputError(f"k is {k}; give the depth to compare rankings to, at least 1.")
        self._k, self._p, self._most = k, p, most_queries
        self._overlap, self._rbo, self._tau = array("d"), array("d"), array("d")
        self._first_changed = self._pairs = self._created = self._broken = 0

    def add(self, reference: Tensor, found: Tensor) -> None:
        """Takes scores (queries, documents) of the next queries from both sides, larger is better.

        Equal scores are ranked by position, on both sides.

        Raises:
            InputError: the shapes differ, or there are no documents.
            NonFiniteError: a score is not a number.
        """
        if reference.ndim != 2 or reference.shape != found.shape or not reference.shape[1]:
            raise InputError(
                f"Scores to be compared must be (queries, documents) on both sides, not "
                f"{tuple(reference.shape)} and {tuple(found.shape)}."
            )
        for side, scores in (("reference", reference), ("other scores", found)):
            if bool((bad := torch.isnan(scores)).any()):
                query, document = (int(place) for place in bad.nonzero()[0])
                raise NonFiniteError(
                    f"query {len(self._rbo) + query} has no score for document {document} (NaN) in the "
                    f"{side}. Embed both anew in float32."
                )
        tops = [best(scores, self._k)[1].cpu().numpy() for scores in (reference, found)]
        for query, (before, after) in enumerate(zip(*tops, strict=True)):
            union = np.union1d(before, after)
            chosen = torch.from_numpy(union).to(reference.device)
            pairs = _pairs(*(scores[query, chosen].double().cpu().numpy() for scores in (reference, found)))
            self._overlap.append(top_overlap(before.tolist(), after.tolist()))
            self._rbo.append(rank_biased_overlap(before.tolist(), after.tolist(), self._p))
            if not math.isnan(pairs.tau):
                self._tau.append(pairs.tau)
            self._first_changed += int(before[0] != after[0])
            self._pairs += pairs.number
            self._created += pairs.ties_created
            self._broken += pairs.ties_broken

    def change(self) -> RankingChange:
        """That of all queries so far.

        Raises:
            InputError: there were none.
        """
        queries = len(self._rbo)
        if not queries:
            raise InputError("There is no change of the rankings of no query. Give at least one.")
        order = np.argsort(np.frombuffer(self._rbo), kind="stable")[: self._most]
        return RankingChange(
            queries=queries,
            k=self._k,
            p=self._p,
            overlap_mean=math.fsum(self._overlap) / queries,
            overlap_worst=min(self._overlap),
            rbo_mean=math.fsum(self._rbo) / queries,
            rbo_worst=min(self._rbo),
            tau_mean=math.fsum(self._tau) / len(self._tau) if self._tau else None,
            tau_queries=len(self._tau),
            first_changed=self._first_changed,
            pairs=self._pairs,
            ties_created=self._created,
            ties_broken=self._broken,
            worst_queries=tuple((int(query), self._rbo[query]) for query in order),
        )


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Pairs of items, compared on both sides."""

    number: int
    tau: float
    ties_created: int
    ties_broken: int


def _pairs(first: NDArray[Any], second: NDArray[Any]) -> _Pairs:
    """All pairs of items by two scores of each; takes memory for the square of their number."""
    if first.shape != second.shape or first.ndim != 1:
        raise InputError(
            f"Scores of the same items must be (items,) each, not {first.shape} and {second.shape}."
        )
    upper = np.triu_indices(len(first), k=1)
    # Comparisons, not differences: two infinite scores are equal, and their difference is not a number.
    orders = [
        (scores[upper[0]] > scores[upper[1]]).astype(np.int8) - (scores[upper[0]] < scores[upper[1]])
        for scores in (first, second)
    ]
    apart = [order != 0 for order in orders]
    product = int(np.sum(orders[0] * orders[1], dtype=np.int64))
    scale = math.sqrt(int(apart[0].sum()) * int(apart[1].sum()))
    return _Pairs(
        number=len(upper[0]),
        tau=max(-1.0, min(1.0, product / scale)) if scale else math.nan,
        ties_created=int((apart[0] & ~apart[1]).sum()),
        ties_broken=int((~apart[0] & apart[1]).sum()),
    )
