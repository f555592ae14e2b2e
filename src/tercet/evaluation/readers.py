"""What several layouts read alike: files that may be gzipped, and readers of documents and queries."""

from __future__ import annotations

__all__ = ["documents", "first_file", "queries", "stem", "tab_separated"]

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tercet.errors import InputError
from tercet.evaluation.collection import Document, document_text
from tercet.evaluation.records import read_fields, read_records

DOCUMENT_IDS = ("_id", "docid", "doc_id", "id")
QUERY_IDS = ("_id", "query_id", "qid", "id")
TITLE_NOTE = "A document is its title and its text with a space between, as in BEIR."


def first_file(folder: Path, *names: str) -> Path | None:
    """The first of these files that is there, as it is or gzipped."""
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def stem(path: Path) -> str:
    """The name without its suffix, and without .gz."""
    return Path(path.name.removesuffix(".gz")).stem


def documents(files: Sequence[Path]) -> Callable[[], Iterator[Document]]:
    """What reads the documents of JSON lines, file after file."""

    def read() -> Iterator[Document]:
        for path in files:
            for record in read_records(path):
                yield Document(record.id(*DOCUMENT_IDS), document_text(record), record.where)

    return read


def queries(path: Path) -> Callable[[], Iterator[Document]]:
    """What reads the queries of JSON lines."""

    def read() -> Iterator[Document]:
        for record in read_records(path):
            yield Document(record.id(*QUERY_IDS), record.text("text", "query"), record.where)

    return read


def tab_separated(path: Path) -> Callable[[], Iterator[Document]]:
    """What reads queries as id, tab, text."""

    def read() -> Iterator[Document]:
        for where, fields in read_fields(path):
            if len(fields) != 2 or not fields[0] or any(map(str.isspace, fields[0])):
                raise InputError(
                    f"{where}: a query is an id, a tab and its text; here are {len(fields)} fields."
                )
            yield Document(fields[0], fields[1], where)

    return read
