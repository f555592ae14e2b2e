"""Relevance judgements of BEIR, TREC and FlagEmbedding files: query -> document -> grade."""

from __future__ import annotations

__all__ = ["Judgement", "Qrels", "collect", "read_judgements"]

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tercet.errors import InputError
from tercet.evaluation.records import read_fields, read_records

_LARGEST = 1000  # 2**1000 is a number yet, for exponential gain
_HEADERS = {"query-id", "query_id", "qid", "queryid", "query"}


class Judgement(NamedTuple):
    """One line: how relevant a document is to a query, and where that is said."""

    query: str
    document: str
    grade: int
    where: str


@dataclass(slots=True)
class Qrels:
    """Judgements, and what was left out of them.

    Attributes:
        grades: query -> document -> grade.
        repeated: lines that say once more what was said.
        unknown_queries, unknown_documents: judgements that were left out because that was asked for.
    """

    grades: dict[str, dict[str, int]] = field(default_factory=dict)
    repeated: int = 0
    unknown_queries: int = 0
    unknown_documents: int = 0


def read_judgements(path: Path) -> Iterator[Judgement]:
    """The judgements of a file, line by line, in whichever of these forms it has.

    - BEIR: query, document, grade, separated by tabs, under a header;
    - TREC: query, iteration, document, grade, separated by white space;
    - .jsonl: objects with "query-id" or "qid", "corpus-id" or "docid", and "score" or "relevance".

    Raises:
        InputError: while reading, for a line that has another form.
    """
    name = path.name.removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson")):
        for record in read_records(path):
            yield Judgement(
                record.id("query-id", "qid", "query_id"),
                record.id("corpus-id", "docid", "doc_id", "corpus_id"),
                record.grade("score", "relevance", "label"),
                record.where,
            )
        return
    for number, (where, fields) in enumerate(read_fields(path, None)):
        if len(fields) not in (3, 4):
            raise InputError(
                f"{where}: {len(fields)} columns, where judgements have three (query, document, grade) or "
                "TREC's four (query, iteration, document, grade). No id may hold white space."
            )
        query, document, grade = fields[0], fields[-2], fields[-1]
        if number == 0 and query.lower() in _HEADERS and not _whole(grade):
            continue
        if not _whole(grade):
            raise InputError(f"{where}: the grade is {grade!r}; it must be a whole number.")
        yield Judgement(query, document, int(float(grade)), where)


def collect(
    judgements: Iterable[Judgement],
    known_query: Callable[[str], bool],
    *,
    queries: str,
    ignore_missing: bool = False,
) -> Qrels:
    """All judgements of known queries.

    Args:
        judgements: line by line.
        known_query: whether there is such a query.
        queries: where the queries stand, for messages.
        ignore_missing: leave out and count those of unknown queries.

    Raises:
        InputError: naming the line: an unknown query, or a document that gets two different grades.
    """
    found = Qrels()
    for judgement in judgements:
        query, document, grade, where = judgement
        if not known_query(query):
            if not ignore_missing:
                raise InputError(
                    f"{where}: the query {query!r} is not in {queries}. Do both belong to the same "
                    "collection? --ignore-missing (ignore_missing=True) leaves such judgements out and "
                    "counts them."
                )
            found.unknown_queries += 1
            continue
        if abs(grade) > _LARGEST:
            raise InputError(f"{where}: the grade is {grade}; grades lie between -{_LARGEST} and {_LARGEST}.")
        grades = found.grades.setdefault(query, {})
        if grades.setdefault(document, grade) != grade:
            raise InputError(
                f"{where}: document {document!r} gets grade {grade} for query {query!r}, and got "
                f"{grades[document]} further up. Remove one of the two lines."
            )
        found.repeated += 1
    found.repeated -= sum(map(len, found.grades.values()))
    return found


def _whole(text: str) -> bool:
    try:
        return float(text).is_integer()
    except ValueError:
        return False
