"""Metrics expected over every order of documents with equal scores, all orders being as likely.

F. McSherry & M. Najork: Computing information retrieval performance measures efficiently in the presence
of tied scores, ECIR 2008. In a block of n equal scores each rank holds each of its documents with chance 1/n.
"""

from __future__ import annotations

__all__ = ["average_precision", "hit_rate", "ndcg", "precision", "recall", "reciprocal_rank"]

from collections.abc import Iterator

from tercet.evaluation.ranked import Judged


def ndcg(judged: Judged, cutoff: int | None) -> float:
    """Every rank of a block gains the block's mean."""
    best = judged.best(cutoff)
    if best == 0:
        return 0.0
    stop = _stop(judged, cutoff)
    discounts = judged.discounts(stop)
    total = sum(
        float(judged.gains[start:end].mean()) * float(discounts[start : min(end, stop)].sum())
        for start, end in judged.blocks(cutoff)
    )
    return total / best


def recall(judged: Judged, cutoff: int | None) -> float:
    """Expected relevant documents above the cutoff, over all that there are."""
    return _found(judged, cutoff) / judged.num_relevant if judged.num_relevant else 0.0


def precision(judged: Judged, cutoff: int | None) -> float:
    """Expected relevant documents above the cutoff, over the cutoff."""
    assert cutoff is not None
    return _found(judged, cutoff) / cutoff


def hit_rate(judged: Judged, cutoff: int | None) -> float:
    """The chance that a relevant document stands above the cutoff."""
    return sum(chance for _, chance in _first_relevant(judged, cutoff))


def reciprocal_rank(judged: Judged, cutoff: int | None) -> float:
    """The sum over ranks of the chance that the first relevant document is there, over the rank."""
    return sum(chance / (rank + 1) for rank, chance in _first_relevant(judged, cutoff))


def average_precision(judged: Judged, cutoff: int | None) -> float:
    """At each rank: the chance of a relevant document there, times the precision expected if so."""
    if not judged.num_relevant:
        return 0.0
    stop, total, before = _stop(judged, cutoff), 0.0, 0
    for start, end in judged.blocks(cutoff):
        size, relevant = end - start, int(judged.relevant[start:end].sum())
        if relevant:
            # of the other documents of the block, this share is relevant
            others = (relevant - 1) / (size - 1) if size > 1 else 0.0
            for rank in range(start, min(end, stop)):
                total += relevant / size * (before + 1 + (rank - start) * others) / (rank + 1)
        before += relevant
    return total / judged.num_relevant


def _found(judged: Judged, cutoff: int | None) -> float:
    """Expected number of relevant documents above the cutoff."""
    stop = _stop(judged, cutoff)
    return sum(
        float(judged.relevant[start:end].mean()) * (min(end, stop) - start)
        for start, end in judged.blocks(cutoff)
    )


def _first_relevant(judged: Judged, cutoff: int | None) -> Iterator[tuple[int, float]]:
    """(rank from 0, chance that the first relevant document is there), as far as there is a chance."""
    stop = _stop(judged, cutoff)
    for start, end in judged.blocks(cutoff):
        relevant = int(judged.relevant[start:end].sum())
        if not relevant:
            continue
        chance = 1.0  # of no relevant document so far
        for rank in range(start, min(end, stop)):
            left = end - rank
            here = min(1.0, relevant / left)
            yield rank, chance * here
            chance *= 1.0 - here
        return


def _stop(judged: Judged, cutoff: int | None) -> int:
    return len(judged.gains) if cutoff is None else min(cutoff, len(judged.gains))
