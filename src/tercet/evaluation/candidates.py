"""Queries with the documents that belong to them and those that do not, from JSON lines."""

from __future__ import annotations

__all__ = ["Candidates", "has_candidates", "read_candidates"]

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tercet.errors import InputError, kind_of
from tercet.evaluation.records import Record, read_records

_POSITIVE = ("positive", "pos", "positives", "positive_passages")
_NEGATIVE = ("negative", "neg", "negatives", "negative_passages")


class Candidates(NamedTuple):
    """One query's documents, and where they stand."""

    query: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    where: str


def read_candidates(path: Path) -> Iterator[Candidates]:
    """The queries of a file, line by line.

    Each line is an object with "query", and lists of strings, or of objects with "text", under "positive" or
    "pos" (sentence-transformers, MTEB, FlagEmbedding), and "negative" or "neg"; MLDR's "…_passages" too.

    Raises:
        InputError: while reading, naming the line: no such keys, an empty query, no positive document, or one
            that is also a negative.
    """
    for record in read_records(path):
        query = record.text("query")
        if not query.strip():
            raise InputError(f"{record.where}: the query is empty. Remove the line.")
        positive, negative = (_texts(record, keys) for keys in (_POSITIVE, _NEGATIVE))
        if not positive:
            raise InputError(
                f"{record.where}: no positive document, so there is nothing to find. Give at least one under "
                "'positive' or 'pos', or remove the line."
            )
        both = set(positive) & set(negative)
        if both:
            raise InputError(
                f"{record.where}: {min(both)[:60]!r} is a positive document and a negative one. "
                "Remove it from one of the lists."
            )
        yield Candidates(query, positive, negative, record.where)


def has_candidates(path: Path) -> bool:
    """Whether the first line of a file is such an object."""
    if not path.is_file() or not path.name.removesuffix(".gz").endswith((".jsonl", ".ndjson")):
        return False
    first = next(read_records(path), None)
    return first is not None and first.has("query") and first.has(*_POSITIVE)


def _texts(record: Record, keys: tuple[str, ...]) -> tuple[str, ...]:
    """The texts of a list, each once."""
    return tuple(dict.fromkeys(_text(item, record.where, keys[0]) for item in record.items(*keys)))


def _text(item: Any, where: str, key: str) -> str:
    if isinstance(item, dict):
        inner = Record(where, item)
        title = item.get("title")
        return f"{inner.text('title')} {inner.text('text')}".strip() if title else inner.text("text")
    if not isinstance(item, str):
        raise InputError(f"{where}: a {key} document is {kind_of(item)}; it must be a string.")
    return item
