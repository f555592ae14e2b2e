"""A ranking of documents in trec_eval's order, and what its judgements say of each rank."""

from __future__ import annotations

__all__ = ["Judged", "Ranking"]

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.errors import InputError

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Documents of one query, best first.

    Scores are float32, as trec_eval compares them; equal ones stand in the order of their ids, descending by
    Unicode code point, which is the byte order of UTF-8 that trec_eval goes by.

    Attributes:
        ids: of the documents.
        scores: (documents,) float32, descending.
    """

    ids: tuple[str, ...]
    scores: NDArray[np.float32]

    @classmethod
    def of(cls, scores: Mapping[str, float], *, where: str = "the ranking") -> Ranking:
        """The ranking of document -> score.

        Raises:
            InputError: a score that is not a number of float32's range.
        """
        ids = list(scores)
        with np.errstate(over="ignore"):
            values = np.asarray(list(scores.values()), dtype=np.float64).astype(np.float32)
        if not np.isfinite(values).all():
            bad = int(np.flatnonzero(~np.isfinite(values))[0])
            raise InputError(
                f"{where}: the score of document {ids[bad]!r} is {scores[ids[bad]]}, which is no finite "
                "float32 number, so it has no rank. Look where the scores come from."
            )
        order = np.argsort(-values, kind="stable")
        values = values[order]
        ranked = [ids[place] for place in order.tolist()]
        for start, end in _tied_runs(values):
            ranked[start:end] = sorted(ranked[start:end], reverse=True)
        return cls(tuple(ranked), values)

    def __len__(self) -> int:
        return len(self.ids)


def _tied_runs(scores: Floats) -> list[tuple[int, int]]:
    """(first, after the last) of each run of more than one equal score."""
    bounds = [0, *(np.flatnonzero(scores[1:] != scores[:-1]) + 1).tolist(), len(scores)]
    return [(start, end) for start, end in pairwise(bounds) if end - start > 1]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """One query's ranking, rank by rank.

    Attributes:
        gains: (documents,) of nDCG, 0 for what is not judged.
        relevant: (documents,) bool, for binary metrics.
        ideal: gains of all judged documents, largest first.
        num_relevant: relevant documents that there are, retrieved or not.
        runs: (first, after the last) of ranks with equal scores, more than one each.
    """

    gains: NDArray[np.float64]
    relevant: NDArray[np.bool_]
    ideal: NDArray[np.float64]
    num_relevant: int
    runs: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, ranking: Ranking, grades: Mapping[str, int], *, exponential: bool, level: int) -> Judged:
        """A ranking under its grades; below 0 they gain nothing."""
        found = np.array([max(0, grades.get(document, 0)) for document in ranking.ids], dtype=np.float64)
        every = np.array([max(0, grade) for grade in grades.values()], dtype=np.float64)
        return cls(
            gains=np.exp2(found) - 1 if exponential else found,
            relevant=found >= level,
            ideal=-np.sort(-(np.exp2(every) - 1 if exponential else every)),
            num_relevant=int((every >= level).sum()),
            runs=tuple(_tied_runs(ranking.scores)),
        )

    @property
    def has_ties(self) -> bool:
        """Whether any two documents have one score."""
        return bool(self.runs)

    def blocks(self, cutoff: int | None) -> list[tuple[int, int]]:
        """(first, after the last) of runs of equal scores that begin above the cutoff, single ones too."""
        stop = len(self.gains) if cutoff is None else min(cutoff, len(self.gains))
        found, rank = [], 0
        for start, end in (*self.runs, (stop, stop)):
            found += [(single, single + 1) for single in range(rank, min(start, stop))]
            if start >= stop:
                break
            found.append((start, end))
            rank = end
        return found

    def best(self, cutoff: int | None) -> float:
        """Discounted gain of the best possible ranking."""
        ideal = self.ideal[:cutoff]
        return float(ideal @ self.discounts(len(ideal)))

    @staticmethod
    def discounts(ranks: int) -> NDArray[np.float64]:
        """(ranks,), 1 / log2(rank + 1)."""
        return 1.0 / np.log2(np.arange(2, ranks + 2))
