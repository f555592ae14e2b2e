"""The second stage of a search: queries, each with the documents that a first stage found, ranked anew.

They come from a TREC run with the texts of its collection, or from JSON lines that hold both.
"""

from __future__ import annotations

__all__ = ["Found", "Reranked", "found_in_lines", "found_in_run", "rerank"]

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tercet.errors import InputError, kind_of
from tercet.evaluation.collection import Document, document_text
from tercet.evaluation.ranked import Ranking
from tercet.evaluation.readers import DOCUMENT_IDS, QUERY_IDS
from tercet.evaluation.records import Record, read_records
from tercet.evaluation.runs import Run

# Under which keys a line has its documents: all that are there, in this order.
_LISTS = (
    "documents",
    "candidates",
    "passages",
    "pos",
    "neg",
    "positive",
    "negative",
    "positives",
    "negatives",
    "positive_passages",
    "negative_passages",
)
_CHUNK_PAIRS = 512


@dataclass(frozen=True, slots=True)
class Found:
    """One query and the documents that a first stage found for it.

    Attributes:
        id: of the query.
        query: its text.
        documents: id -> text.
    """

    id: str
    query: str
    documents: dict[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Reranked:
    """One query's documents in their new order."""

    found: Found
    ranking: Ranking


def found_in_run(
    run: Run,
    queries: Iterable[Document],
    documents: Iterable[Document],
    *,
    depth: int,
    where: str,
) -> list[Found]:
    """The best documents of each query of a run, with their texts.

    Both are read through once; only texts that the run names are held.

    Args:
        run: query -> its ranking.
        queries, documents: ids and texts.
        depth: so many documents of each query; what stands below is left out.
        where: the run's name, for messages.

    Raises:
        InputError: the run names a query or a document that is not there.
    """
    best = {query: ranking.ids[:depth] for query, ranking in run.items()}
    asked = {query.id: query.text for query in queries if query.id in best}
    wanted = {document for ids in best.values() for document in ids}
    texts = {document.id: document.text for document in documents if document.id in wanted}
    for kind, missing in (
        ("query", [name for name in best if name not in asked]),
        ("document", [name for ids in best.values() for name in ids if name not in texts]),
    ):
        if missing:
            raise InputError(
                f"{where}: the {kind} {missing[0]!r} is not in the collection ({len(set(missing)):,} such). "
                "Give the collection that the run was made on."
            )
    return [Found(name, asked[name], {one: texts[one] for one in ids}) for name, ids in best.items()]


def found_in_lines(path: Path) -> Iterator[Found]:
    """The queries of JSON lines, each with its documents.

    Each line is an object with "query", and lists of strings, or of objects with "text", under "documents",
    "candidates", "passages", or "pos" and "neg" and their kin. A query without an id is named by its number
    from 1, a document by its place from 0.

    Raises:
        InputError: while reading, naming the line: no such keys, a query or document that is no string, or an
            id that comes twice.
    """
    seen: set[str] = set()
    for number, record in enumerate(read_records(path), start=1):
        if not record.has(*_LISTS):
            raise InputError(
                f"{record.where}: there are no documents: a list is expected under 'documents', "
                f"'candidates', 'passages', or 'pos' and 'neg'. Its keys: "
                f"{', '.join(record.values) or 'none'}."
            )
        name = record.id(*QUERY_IDS) if record.has(*QUERY_IDS) else str(number)
        if name in seen:
            raise InputError(f"{record.where}: a second query has the id {name!r}. Ids must be unique.")
        seen.add(name)
        documents: dict[str, str] = {}
        for item in (item for key in _LISTS for item in record.items(key)):
            own, text = _document(item, record.where, len(documents))
            if own in documents:
                raise InputError(f"{record.where}: a second document has the id {own!r}. Ids must be unique.")
            documents[own] = text
        yield Found(name, record.text("query", "text"), documents)


def rerank(
    score: Callable[[list[tuple[str, str]]], Tensor],
    queries: Iterable[Found],
    *,
    top_k: int | None = None,
) -> Iterator[Reranked]:
    """Each query's documents by their scores, best first, in trec_eval's order where these are equal.

    Args:
        score: (query, document) pairs -> (pairs,), such as `Reranker.score`.
        queries: the queries with their documents.
        top_k: only so many of each; None for all.
    """
    for chunk in _chunks(queries):
        pairs = [(one.query, text) for one in chunk for text in one.documents.values()]
        scores = score(pairs).tolist()
        start = 0
        for one in chunk:
            end = start + len(one.documents)
            own = dict(zip(one.documents, scores[start:end], strict=True))
            ranking = Ranking.of(own, where=f"query {one.id!r}")
            yield Reranked(one, Ranking(ranking.ids[:top_k], ranking.scores[:top_k]))
            start = end


def _chunks(queries: Iterable[Found]) -> Iterator[Sequence[Found]]:
    """Consecutive queries, with so many documents together that few calls score them."""
    chunk: list[Found] = []
    pairs = 0
    for one in queries:
        chunk.append(one)
        pairs += len(one.documents)
        if pairs >= _CHUNK_PAIRS or len(chunk) >= _CHUNK_PAIRS:
            yield chunk
            chunk, pairs = [], 0
    if chunk:
        yield chunk


def _document(item: Any, where: str, place: int) -> tuple[str, str]:
    if isinstance(item, str):
        return str(place), item
    if not isinstance(item, dict):
        raise InputError(
            f"{where}: document {place} is {kind_of(item)}; it must be a string, or an object with 'text'."
        )
    record = Record(where, item)
    return record.id(*DOCUMENT_IDS) if record.has(*DOCUMENT_IDS) else str(place), document_text(record)
