"""What a change of precision does to vectors and to retrieval: distance, overlap, nDCG@10 with its interval.

Plain NumPy in float64, on a collection in BEIR's layout.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

CUT = 10
RESAMPLES = 10_000
# 1 - cosine of neighbours is far below a float32's rounding of 1: these need float64 vectors.
Vectors = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a scheme is held to: mean and worst 1 - cosine, overlap at least, nDCG@10 within."""

    mean: float
    worst: float
    overlap: float
    ndcg: float


# float32 is held to float64, the others to float32.
GOALS = {
    "float32": Limits(1e-7, 1e-6, 1.0, 1e-4),
    "float16": Limits(5e-6, 5e-5, 0.995, 0.002),
    "int8": Limits(4.5e-4, 2e-3, 0.98, 0.003),
    "int8-fast": Limits(1.2e-3, 1e-2, 0.965, 0.005),
}


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents, queries, and which documents answer which query: query id -> document id -> gain."""

    documents: tuple[str, ...]
    document_ids: tuple[str, ...]
    queries: tuple[str, ...]
    query_ids: tuple[str, ...]
    judgements: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Change:
    """How far vectors moved from the reference, and what that did to retrieval.

    Attributes:
        texts: documents and queries that were compared.
        mean, worst: of 1 - cosine over all of them.
        overlap: mean share of the reference's top 10 documents of a query that are still in the top 10.
        ndcg, reference_ndcg: nDCG@10, of queries that have an answer.
        difference, low, high: of nDCG@10, with its 95 % bootstrap interval over queries.
    """

    texts: int
    mean: float
    worst: float
    overlap: float | None = None
    ndcg: float | None = None
    reference_ndcg: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_collection(folder: Path, most_documents: int | None = None) -> Collection:
    """corpus.jsonl, queries.jsonl and qrels/test.tsv; of a sample the first documents, and the queries that
    these answer.

    A document is its title and its text; one with neither is a full stop, since a text must not be empty.
    """
    documents = _rows(folder / "corpus.jsonl")[:most_documents]
    queries = _rows(folder / "queries.jsonl")
    judgements = read_judgements(folder / "qrels" / "test.tsv")
    ids = tuple(str(row["_id"]) for row in documents)
    known = set(ids)
    judged = {
        query: {document: gain for document, gain in found.items() if document in known}
        for query, found in judgements.items()
    }
    judged = {query: found for query, found in judged.items() if any(gain > 0 for gain in found.values())}
    if most_documents is not None:
        queries = [row for row in queries if str(row["_id"]) in judged]
    return Collection(
        tuple(f"{row.get('title', '')} {row['text']}".strip() or "." for row in documents),
        ids,
        tuple(str(row["text"]) for row in queries),
        tuple(str(row["_id"]) for row in queries),
        judged,
    )


def read_judgements(path: Path) -> dict[str, dict[str, float]]:
    """A TSV file with a header: query, document, gain."""
    found: dict[str, dict[str, float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file, delimiter="\t")):
            if number == 0 or not row:
                continue
            if len(row) != 3:
                sys.exit(
                    f"{path}, line {number + 1}: {len(row)} columns; a judgement is query, document, gain."
                )
            found.setdefault(row[0], {})[row[1]] = float(row[2])
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        sys.exit(f"{path} is not there. Pass a folder in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/.")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def unit(vectors: Any) -> Vectors:
    """(texts, dim) at unit length, in float64."""
    rows = np.asarray(vectors, dtype=np.float64)
    found: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def distances(reference: Any, vectors: Any) -> Vectors:
    """(texts,) of 1 - cosine, as |a - b|^2 / 2 of unit vectors: 1 - a.b of near neighbours is rounding."""
    difference = unit(reference) - unit(vectors)
    found: Vectors = np.square(difference).sum(axis=1) / 2
    return found


def top(queries: Any, documents: Any, document_ids: Sequence[str], cut: int = CUT) -> list[list[str]]:
    """The ids of the best documents of each query by cosine; equal ones by descending id, as trec_eval's."""
    order = sorted(range(len(document_ids)), key=lambda place: document_ids[place], reverse=True)
    scores = unit(queries) @ unit(documents)[order].T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :cut]
    return [[document_ids[order[place]] for place in row] for row in best]


def ndcg(ranked: Sequence[str], gains: Mapping[str, float], cut: int = CUT) -> float:
    """Normalised discounted cumulative gain (Järvelin & Kekäläinen 2002), linear: trec_eval's ndcg_cut.

    Args:
        ranked: document ids, best first.
        gains: of the judged documents; what is not judged, or below 0, gains nothing.
    """
    ideal = _discounted(sorted((gain for gain in gains.values() if gain > 0), reverse=True)[:cut])
    found = _discounted([max(gains.get(document, 0.0), 0.0) for document in ranked[:cut]])
    return found / ideal if ideal else 0.0


def _discounted(gains: Sequence[float]) -> float:
    return float(sum(gain / np.log2(place + 2) for place, gain in enumerate(gains)))


def interval(
    differences: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The middle 95 % of the mean over queries drawn again with replacement (Efron 1979), paired by query."""
    values = np.asarray(differences, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(values), size=(resamples, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def compare(reference: Any, vectors: Any, collection: Collection) -> Change:
    """What became of the reference.

    Args:
        reference, vectors: (documents + queries, dim): the collection's documents, then its queries.
    """
    number = len(collection.documents)
    apart = distances(reference, vectors)
    if len(apart) != number + len(collection.queries):
        raise ValueError(
            f"{len(apart)} vectors for {number} documents and {len(collection.queries)} queries."
        )
    change = Change(len(apart), float(apart.mean()), float(apart.max()))
    if not collection.queries:
        return change
    was, now = (top(rows[number:], rows[:number], collection.document_ids) for rows in (reference, vectors))
    shared = [len({*old} & {*new}) / len(old) for old, new in zip(was, now, strict=True)]
    judged = [
        (ndcg(old, gains), ndcg(new, gains))
        for query, old, new in zip(collection.query_ids, was, now, strict=True)
        if (gains := collection.judgements.get(query))
    ]
    if not judged:
        return Change(change.texts, change.mean, change.worst, float(np.mean(shared)))
    old_mean, new_mean = (float(np.mean(column)) for column in zip(*judged, strict=True))
    low, high = interval([new - old for old, new in judged])
    return Change(
        change.texts,
        change.mean,
        change.worst,
        float(np.mean(shared)),
        new_mean,
        old_mean,
        new_mean - old_mean,
        low,
        high,
    )


def met(scheme: str, change: Change) -> dict[str, bool]:
    """Measure -> whether its goal is reached; of measures that were taken, of schemes that have goals."""
    limits = GOALS.get(scheme)
    if limits is None:
        return {}
    found = {"mean": change.mean <= limits.mean, "worst": change.worst <= limits.worst}
    if change.overlap is not None:
        found["overlap"] = change.overlap >= limits.overlap
    if change.difference is not None:
        found["ndcg"] = abs(change.difference) <= limits.ndcg
    return found
