"""Metrics of retrieval over judgements: trec_eval's values, and beside them those expected over ties."""

from __future__ import annotations

__all__ = [
    "DEFAULT_METRICS",
    "METRICS_VERSION",
    "Gain",
    "Metric",
    "Scores",
    "check_gain",
    "evaluate_run",
    "parse_metrics",
]

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import fsum
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from tercet.errors import InputError, UnknownNameError, nearest
from tercet.evaluation import expected
from tercet.evaluation.ranked import Judged, Ranking

# Part of what stored results are kept under: raise it when a value can come out differently.
METRICS_VERSION = 1

Gain: TypeAlias = Literal["linear", "exponential"]
Qrels: TypeAlias = Mapping[str, Mapping[str, int]]

DEFAULT_METRICS = ("ndcg@10", "recall@10", "recall@100", "mrr@10", "map@100", "precision@10", "hit_rate@10")
_SPELLINGS = {"p": "precision", "success": "hit_rate", "hit": "hit_rate", "recip_rank": "mrr", "rr": "mrr"}
# These say nothing without a rank to stop at.
_NEED_CUTOFF = ("hit_rate", "precision")
_NAME = re.compile(r"([a-z_]+?)(?:(?:@|_at_|_cut[_.]|_|\.)(\d+))?")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its kind, and the rank that it looks down to (None: the whole ranking)."""

    kind: str
    cutoff: int | None

    @classmethod
    def parse(cls, name: str) -> Metric:
        """The metric of a name: "ndcg@10", "mrr", also "ndcg_at_10", "ndcg_cut_10", "P_5", "success@1".

        Raises:
            UnknownNameError: there is no such metric.
            InputError: a cutoff that is missing or 0.
        """
        found = _NAME.fullmatch(name.strip().lower())
        kind = found[1] if found else name.lower().partition("@")[0]
        kind = _SPELLINGS.get(kind, kind)
        if found is None or kind not in _PLAIN:
            raise UnknownNameError(
                f"There is no metric {name!r}. {nearest(kind, _PLAIN)} With a rank behind: ndcg@10."
            )
        cutoff = None if found[2] is None else int(found[2])
        if cutoff == 0:
            raise InputError(f"The metric {name!r} looks at no rank at all; the first rank is 1.")
        if cutoff is None and kind in _NEED_CUTOFF:
            raise InputError(f"The metric {name!r} needs a rank to look down to, for example {kind}@10.")
        return cls(kind, cutoff)

    def __str__(self) -> str:
        return self.kind if self.cutoff is None else f"{self.kind}@{self.cutoff}"


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What a run is worth.

    Attributes:
        metrics: their names.
        gain: of a grade in nDCG: "linear" (the grade, as in trec_eval) or "exponential" (2**grade - 1).
        relevance_level: lowest grade that binary metrics call relevant.
        queries: those that the means are over, in the order of the judgements.
        values: metric -> value of each query, with equal scores in trec_eval's order (id descending).
        expected: metric -> the same, expected over all orders of documents with equal scores (McSherry &
            Najork 2008): what no choice of ids can flatter.
        tied: how many queries have equal scores anywhere in their ranking.
        unjudged: queries of the run without any judgement; left out, as trec_eval does.
        missing: judged queries that the run does not have; left out, or 0 where that was asked for.
    """

    metrics: tuple[str, ...]
    gain: Gain
    relevance_level: int
    queries: tuple[str, ...]
    values: Mapping[str, tuple[float, ...]]
    expected: Mapping[str, tuple[float, ...]]
    tied: int
    unjudged: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def means(self) -> dict[str, float]:
        """Metric -> mean over the queries."""
        return {name: fsum(values) / len(values) for name, values in self.values.items()}

    @property
    def expected_means(self) -> dict[str, float]:
        """Metric -> mean over the queries of the values expected over ties."""
        return {name: fsum(values) / len(values) for name, values in self.expected.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain values, with those of each query."""
        return {
            "metrics": self.means,
            "expected_over_ties": self.expected_means,
            "queries": len(self.queries),
            "queries_with_ties": self.tied,
            "queries_without_judgements": len(self.unjudged),
            "judged_queries_without_results": len(self.missing),
            "per_query": {
                query: {name: self.values[name][row] for name in self.metrics}
                for row, query in enumerate(self.queries)
            },
        }


def parse_metrics(names: Iterable[str]) -> tuple[Metric, ...]:
    """The metrics of several names, each once, in their order."""
    found = tuple(dict.fromkeys(Metric.parse(name) for name in names))
    if not found:
        raise InputError("No metric was named: give at least one, such as ndcg@10.")
    return found


def check_gain(gain: object, relevance_level: object) -> None:
    """An InputError unless both are what `evaluate_run` takes."""
    if gain not in get_args(Gain):
        raise InputError(f"gain is {gain!r}. {nearest(str(gain), get_args(Gain))}")
    if isinstance(relevance_level, bool) or not isinstance(relevance_level, int) or relevance_level < 1:
        raise InputError(f"relevance_level is {relevance_level!r}; grades count from 1, so give 1 or more.")


def evaluate_run(
    run: Mapping[str, Ranking | Mapping[str, float]],
    qrels: Qrels,
    metrics: Iterable[str | Metric] = DEFAULT_METRICS,
    *,
    gain: Gain = "linear",
    relevance_level: int = 1,
    complete: bool = False,
) -> Scores:
    """What a run is worth by these judgements, for each query and on average, as trec_eval has it.

    Documents without a judgement, and those with a grade below 0, gain nothing. The means are over the
    queries that both sides have; a query whose judgements name no relevant document counts as 0.

    Args:
        run: query -> its ranking, or document -> score.
        qrels: query -> document -> grade.
        metrics: see `Metric.parse`.
        gain: of a grade in nDCG.
        relevance_level: lowest grade that recall, MRR, MAP, precision and hit rate call relevant.
        complete: count judged queries that the run does not have as 0, as `trec_eval -c` does.

    Raises:
        InputError: an option that cannot be, a score that is no number, or no query that both have.
        UnknownNameError: there is no such metric.
    """
    asked = parse_metrics(str(metric) for metric in metrics)
    check_gain(gain, relevance_level)
    judged = {query: grades for query, grades in qrels.items() if grades}
    missing = tuple(query for query in judged if query not in run)
    queries = tuple(query for query in judged if complete or query in run)
    if not queries:
        raise InputError(
            f"None of the {len(run)} queries of the run is among the {len(judged)} judged ones, so there is "
            "nothing to measure. Do both belong to the same collection and split?"
        )
    values: dict[str, list[float]] = {str(metric): [] for metric in asked}
    over_ties: dict[str, list[float]] = {str(metric): [] for metric in asked}
    tied = 0
    for query in queries:
        found = run.get(query, _NOTHING)
        ranking = found if isinstance(found, Ranking) else Ranking.of(found, where=f"query {query!r}")
        here = Judged.of(ranking, judged[query], exponential=gain == "exponential", level=relevance_level)
        tied += here.has_ties
        for metric in asked:
            value = _PLAIN[metric.kind](here, metric.cutoff)
            values[str(metric)].append(value)
            expectation = _EXPECTED[metric.kind](here, metric.cutoff) if here.has_ties else value
            over_ties[str(metric)].append(expectation)
    return Scores(
        metrics=tuple(map(str, asked)),
        gain=gain,
        relevance_level=relevance_level,
        queries=queries,
        values={name: tuple(column) for name, column in values.items()},
        expected={name: tuple(column) for name, column in over_ties.items()},
        tied=tied,
        unjudged=tuple(query for query in run if query not in judged),
        missing=missing,
    )


_NOTHING: Mapping[str, float] = {}


def _ndcg(judged: Judged, cutoff: int | None) -> float:
    """Discounted gain over that of the best possible ranking (Järvelin & Kekäläinen 2002)."""
    gains = judged.gains[:cutoff]
    best = judged.best(cutoff)
    return float(gains @ judged.discounts(len(gains))) / best if best > 0 else 0.0


def _recall(judged: Judged, cutoff: int | None) -> float:
    return int(judged.relevant[:cutoff].sum()) / judged.num_relevant if judged.num_relevant else 0.0


def _precision(judged: Judged, cutoff: int | None) -> float:
    assert cutoff is not None
    return int(judged.relevant[:cutoff].sum()) / cutoff


def _hit_rate(judged: Judged, cutoff: int | None) -> float:
    return float(judged.relevant[:cutoff].any())


def _mrr(judged: Judged, cutoff: int | None) -> float:
    found = np.flatnonzero(judged.relevant[:cutoff])
    return 1.0 / (int(found[0]) + 1) if len(found) else 0.0


def _map(judged: Judged, cutoff: int | None) -> float:
    """Over all relevant documents, also where there are more of them than ranks, as trec_eval's map_cut."""
    places = np.flatnonzero(judged.relevant[:cutoff])
    if not len(places):
        return 0.0
    return float((np.arange(1, len(places) + 1) / (places + 1)).sum()) / judged.num_relevant


_PLAIN = {
    "ndcg": _ndcg,
    "recall": _recall,
    "mrr": _mrr,
    "map": _map,
    "precision": _precision,
    "hit_rate": _hit_rate,
}
_EXPECTED = {
    "ndcg": expected.ndcg,
    "recall": expected.recall,
    "mrr": expected.reciprocal_rank,
    "map": expected.average_precision,
    "precision": expected.precision,
    "hit_rate": expected.hit_rate,
}
