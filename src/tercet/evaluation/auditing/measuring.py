"""What a scheme's embeddings have lost: drift on a sample, rankings and metrics over everything."""

from __future__ import annotations

__all__ = ["Queries", "Side", "head_rows", "metric_changes", "score_blocks", "systems_of"]

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tercet.embeddings import Embeddings
from tercet.evaluation.audit_result import AuditRow, MetricChange, RankChange, WorstText
from tercet.evaluation.auditing.parts import read_part
from tercet.evaluation.auditing.texts import AuditTexts
from tercet.evaluation.drift import Drift, DriftMeter
from tercet.evaluation.metrics import Scores, evaluate_run
from tercet.evaluation.ranking import RankingMeter, rank_biased_overlap
from tercet.evaluation.significance import paired_bootstrap, paired_randomization
from tercet.evaluation.top import TopDocuments
from tercet.quantization import stored_bytes
from tercet.scoring import best, score_matrix
from tercet.scoring.hybrid import PairScores, Weights

_DEPTH = 10  # of the rankings that are compared
_SCORES = 1 << 23  # scores of one head that are held at once
_RUN_DEPTH = 1000  # documents of each query that metrics see
_RANK_CHANGES, _WORST = 6, 10
_EXCERPT = 100
# Bounds of the histogram: four to a decade, from the rounding of float64 to the opposite direction.
_EDGES = (0.0, *(float(10.0 ** (power / 4)) for power in range(-64, 2)), 2.0)


@dataclass(frozen=True, slots=True)
class Side:
    """Embeddings of one scheme on disk.

    Attributes:
        documents, queries: files of parts, in their order.
    """

    documents: tuple[Path, ...]
    queries: tuple[Path, ...]

    def chosen(self, role: str, positions: Sequence[int]) -> Embeddings:
        """The embeddings at these ascending positions."""
        found, first = [], 0
        for path in self.documents if role == "document" else self.queries:
            embeddings, part = read_part(path)
            here = [position - first for position in positions if first <= position < first + part.texts]
            if here:
                found.append(embeddings[here])
            first += part.texts
        return Embeddings.concat(found)


@dataclass(frozen=True, slots=True)
class Queries:
    """What is searched for: queries, or documents that stand for them.

    Attributes:
        ids: of them.
        documents: their positions among the documents, where they are some; none of them finds itself.
    """

    ids: tuple[str, ...]
    documents: tuple[int, ...] | None

    def of(self, side: Side) -> Embeddings:
        """Their embeddings."""
        if self.documents is not None:
            return side.chosen("document", self.documents)
        return Embeddings.concat([read_part(path)[0] for path in side.queries])


def systems_of(outputs: tuple[str, ...]) -> tuple[str, ...]:
    """The heads, and their weighted sum where there are several."""
    return (*outputs, "combined") if len(outputs) > 1 else outputs


def score_blocks(
    sides: Sequence[Side], queries: Queries, num_documents: int, systems: tuple[str, ...], weights: Weights
) -> Iterator[tuple[int, list[dict[str, Tensor]]]]:
    """(first query, of each side head -> scores (queries, documents)), some queries at a time."""
    rows = max(1, min(256, _SCORES // num_documents))
    asked = [queries.of(side) for side in sides]
    for first in range(0, len(queries.ids), rows):
        found: list[dict[str, Tensor]] = []
        for side, embeddings in zip(sides, asked, strict=True):
            here = embeddings[first : first + rows]
            parts = [_scores(here, read_part(path)[0], systems, weights) for path in side.documents]
            scores = {name: torch.cat([part[name] for part in parts], dim=1) for name in systems}
            if queries.documents is not None:
                own = torch.tensor(queries.documents[first : first + rows])
                for matrix in scores.values():
                    matrix[torch.arange(len(own)), own] = -torch.inf
            found.append(scores)
        yield first, found


def _scores(
    queries: Embeddings, documents: Embeddings, systems: tuple[str, ...], weights: Weights
) -> dict[str, Tensor]:
    used: Weights = weights if len(systems) > 1 else (1.0, 1.0, 1.0)
    found: PairScores = score_matrix(queries, documents, weights=used)
    return {name: getattr(found, name).float() for name in systems}


def head_rows(
    row: AuditRow,
    reference: Side,
    found: Side,
    *,
    texts: AuditTexts,
    queries: Queries,
    sample: tuple[Embeddings, Embeddings, Sequence[str]] | None,
    systems: tuple[str, ...],
    metrics: Sequence[str],
    weights: Weights,
    tick: Callable[[], None],
) -> list[AuditRow]:
    """The row filled for each head.

    Args:
        row: with what is the same for all heads.
        reference: float32 over everything.
        found: the scheme over everything.
        texts: what was embedded.
        queries: what is searched for.
        sample: (embeddings of the exact reference, the scheme's of the same texts, their places: "query 3",
            "document 17"); None to compare everything with float32.
        systems: heads, and "combined".
        metrics: names, where there are judgements.
        weights: of the combined score.
        tick: called now and then.
    """
    meter = DriftMeter(most_texts=_WORST)
    places: Sequence[str]
    if sample is not None:
        meter.add(sample[0], sample[1])
        places = sample[2]
    else:
        places = _everything(meter, reference, found)
    drift, cosines = meter.drift(), meter.cosines()
    tick()
    rankings = {name: RankingMeter(_DEPTH, most_queries=_RANK_CHANGES) for name in systems}
    tops: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {name: [] for name in systems}
    runs: list[dict[str, list[TopDocuments]]] = [{name: [] for name in systems} for _ in range(2)]
    ids = [document.id for document in texts.documents()] if texts.qrels is not None else []
    for _, sides in score_blocks((reference, found), queries, texts.num_documents, systems, weights):
        for name in systems:
            before, after = sides[0][name], sides[1][name]
            rankings[name].add(before, after)
            tops[name].append((best(before, _DEPTH)[1].numpy(), best(after, _DEPTH)[1].numpy()))
            for side, scores in enumerate((before, after)):
                if texts.qrels is not None:
                    top = TopDocuments(len(scores), _RUN_DEPTH)
                    top.add(ids, scores)
                    runs[side][name].append(top)
        tick()
    sizes = _sizes(found)
    rows = []
    changes: dict[str, tuple[list[int], NDArray[Any], NDArray[Any]]] = {}
    for name in systems:
        change = rankings[name].change()
        worst = [query for query, _ in change.worst_queries]
        both = [np.concatenate([pair[side] for pair in tops[name]])[worst] for side in range(2)]
        changes[name] = (worst, both[0], both[1])
        judged: tuple[MetricChange, ...] = ()
        if texts.qrels is not None:
            scored = [_judged(queries.ids, runs[side][name], texts.qrels, metrics) for side in range(2)]
            judged = metric_changes(*scored)
        rows.append(
            replace(
                row,
                head=name,
                overlap_at_10=change.overlap_mean,
                rank_biased_overlap=change.rbo_mean,
                kendall_tau=change.tau_mean,
                ties_created=change.ties_created,
                ties_broken=change.ties_broken,
                ranked_queries=change.queries,
                ranked_by="queries" if queries.documents is None else "documents",
                metrics=judged,
                bytes_per_text=sizes.get(name, sum(sizes.values())),
                **_drift_fields(name, drift, cosines),
            )
        )
    return _named(rows, drift, places, changes, texts, queries)


def _everything(meter: DriftMeter, reference: Side, found: Side) -> list[str]:
    """Every text added to the meter; the places of all."""
    places: list[str] = []
    for role, pairs in (
        ("query", zip(reference.queries, found.queries, strict=True)),
        ("document", zip(reference.documents, found.documents, strict=True)),
    ):
        count = 0
        for one, other in pairs:
            exact, part = read_part(one)
            meter.add(exact, read_part(other)[0])
            places += [f"{role} {count + position}" for position in range(part.texts)]
            count += part.texts
    return places


def _drift_fields(name: str, drift: Drift, cosines: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    found = {"dense": drift.dense, "sparse": drift.sparse, "multivector": drift.multivector}.get(name)
    if found is None:
        return {}
    spread = found.cosine
    fields: dict[str, Any] = {
        "drift_texts": spread.texts,
        "drift_mean": spread.mean,
        "drift_p50": spread.p50,
        "drift_p99": spread.p99,
        "drift_worst": spread.worst,
        "drift_histogram": _histogram(cosines[name]),
    }
    if drift.sparse is not None and name == "sparse":
        return fields | {
            "sparse_weight_error_mean": drift.sparse.weight_error_mean,
            "sparse_weight_error_worst": drift.sparse.weight_error_worst,
            "tokens_gained": drift.sparse.gained,
            "tokens_lost": drift.sparse.lost,
        }
    with_norms = drift.dense if name == "dense" else drift.multivector
    assert with_norms is not None
    return fields | {
        "norm_error_mean": with_norms.norm_error_mean,
        "norm_error_worst": with_norms.norm_error_worst,
    }


def _histogram(values: NDArray[np.float64]) -> tuple[tuple[float, float, int], ...]:
    """(lower bound, upper bound, texts), from the first that has any to the last."""
    places = np.searchsorted(_EDGES, values, side="right") - 1
    counts = np.bincount(np.clip(places, 0, len(_EDGES) - 2), minlength=len(_EDGES) - 1)
    there = np.flatnonzero(counts)
    return tuple((_EDGES[k], _EDGES[k + 1], int(counts[k])) for k in range(there[0], there[-1] + 1))


def _sizes(side: Side) -> dict[str, float]:
    """Bytes a document of each output in float32."""
    sums: dict[str, float] = {}
    count = 0
    for path in side.documents:
        embeddings, part = read_part(path)
        count += part.texts
        for name, size in stored_bytes(embeddings, "float32").items():
            sums[name] = sums.get(name, 0) + size
    return {name: size / max(1, count) for name, size in sums.items()}


def _judged(
    ids: Sequence[str],
    tops: Sequence[TopDocuments],
    qrels: Mapping[str, Mapping[str, int]],
    metrics: Sequence[str],
) -> Scores:
    rankings = (ranking for top in tops for ranking in top.rankings())
    return evaluate_run(dict(zip(ids, rankings, strict=True)), qrels, metrics)


def metric_changes(reference: Scores, found: Scores) -> tuple[MetricChange, ...]:
    """How far each metric has moved, and whether that is more than chance."""
    changes = []
    for name in found.metrics:
        before, after = reference.values[name], found.values[name]
        test, interval = paired_randomization(before, after), paired_bootstrap(before, after)
        changes.append(
            MetricChange(
                name=name,
                value=found.means[name],
                reference=reference.means[name],
                change=test.difference,
                low=interval.low,
                high=interval.high,
                p_value=test.p_value,
                queries=len(before),
            )
        )
    return tuple(changes)


def _named(
    rows: Sequence[AuditRow],
    drift: Drift,
    places: Sequence[str],
    changes: Mapping[str, tuple[list[int], NDArray[Any], NDArray[Any]]],
    texts: AuditTexts,
    queries: Queries,
) -> list[AuditRow]:
    """The rows with the ids of what drifts and changes most, by one pass through the documents."""
    worst = {
        name: [(places[text], value) for text, value in found.cosine.worst_texts]
        for name, found in (
            ("dense", drift.dense), ("sparse", drift.sparse), ("multivector", drift.multivector)
        )
        if found is not None
    }  # fmt: skip
    wanted = {int(place) for _, before, after in changes.values() for place in (*before.flat, *after.flat)}
    for pairs in worst.values():
        wanted |= {int(place.split()[1]) for place, _ in pairs if place.startswith("document")}
    documents = texts.at(sorted(wanted))
    asked = list(texts.queries.items())

    def named(place: str, value: float) -> WorstText:
        role, number = place.split()
        if role == "query":
            name, text = asked[int(number)]
            return WorstText(f"query {name}", text[:_EXCERPT], value)
        document = documents[int(number)]
        return WorstText(document.id, document.text[:_EXCERPT], value)

    finished = []
    for row in rows:
        numbers, before, after = changes[row.head]
        moved = [
            _rank_change(queries.ids[query], before[line].tolist(), after[line].tolist(), documents)
            for line, query in enumerate(numbers)
        ]
        texts_named = tuple(named(*pair) for pair in worst.get(row.head, []) if pair[1] > 0.0)
        shown = tuple(change for change in moved if change.rank_biased_overlap < 1.0)
        finished.append(replace(row, worst_texts=texts_named, rank_changes=shown))
    return finished


def _rank_change(query: str, before: list[int], after: list[int], documents: Mapping[int, Any]) -> RankChange:
    ranks = [{place: rank for rank, place in enumerate(side, start=1)} for side in (before, after)]
    order = list(dict.fromkeys([*before, *after]))
    return RankChange(
        query,
        tuple((documents[place].id, ranks[0].get(place), ranks[1].get(place)) for place in order),
        rank_biased_overlap(before, after),
    )
