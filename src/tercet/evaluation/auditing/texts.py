"""The user's own texts: documents, and queries and judgements where there are any, checked."""

from __future__ import annotations

__all__ = ["AuditTexts", "open_texts"]

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tercet.errors import InputError
from tercet.evaluation.collection import Document, Parts, check, document_text, scan
from tercet.evaluation.layouts import open_collection
from tercet.evaluation.qrels import read_judgements
from tercet.evaluation.readers import DOCUMENT_IDS, queries
from tercet.evaluation.records import file_hash, read_records
from tercet.storage.lines import Lines


@dataclass(frozen=True, slots=True, eq=False)
class AuditTexts:
    """What an audit embeds.

    Attributes:
        name: the file or folder.
        documents: in their order, read anew at each call; never held.
        num_documents: how many there are.
        queries: id -> text; empty where none were given.
        qrels: query -> document -> grade, or None.
        sha256: of everything that was read.
        notes: what a reader of the figures should know.
    """

    name: str
    documents: Callable[[], Iterator[Document]]
    num_documents: int
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]] | None
    sha256: str
    notes: tuple[str, ...]

    def chunks(self, size: int) -> Iterator[list[Document]]:
        """The documents, so many at a time."""
        documents = self.documents()
        while chunk := list(islice(documents, size)):
            yield chunk

    def at(self, positions: Sequence[int]) -> dict[int, Document]:
        """The documents at these positions, by one pass through all."""
        wanted = set(positions)
        last = max(wanted, default=-1)
        found: dict[int, Document] = {}
        for position, document in zip(range(last + 1), self.documents(), strict=False):
            if position in wanted:
                found[position] = document
        return found

    def to_json(self) -> dict[str, Any]:
        """What they are, without the texts."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "documents": self.num_documents,
            "queries": len(self.queries),
            "judged": self.qrels is not None,
            "judgements": 0 if self.qrels is None else sum(map(len, self.qrels.values())),
        }


def open_texts(
    texts: str | Path,
    queries_file: str | Path | None = None,
    qrels_file: str | Path | None = None,
    *,
    ignore_missing: bool = False,
) -> AuditTexts:
    """The texts of an audit, read through once.

    Args:
        texts: a .jsonl file with "text" (and "_id", "title") a line, a .txt file with a text a line, or the
            folder of a collection in any layout that `tercet evaluate` knows, which has queries of its own.
        queries_file: a .jsonl file with "_id" and "text".
        qrels_file: judgements, as BEIR or TREC have them.
        ignore_missing: leave out judgements of what is not there, and count them.

    Raises:
        InputError: naming file and line: a second document or query with an id, an empty query, a judgement
            of what is not there.
    """
    path = Path(texts)
    if path.is_dir():
        if queries_file is not None or qrels_file is not None:
            raise InputError(
                f"{path} is a folder, which has queries and judgements of its own. Leave queries and qrels "
                "out, or give the file of documents."
            )
        found = open_collection(path, ignore_missing=ignore_missing)
        return AuditTexts(
            str(path),
            found.documents,
            found.num_documents,
            found.queries,
            found.qrels,
            found.sha256,
            found.notes,
        )
    if not path.is_file():
        raise InputError(
            f"{path}: no such file or folder. Give a .jsonl or .txt file, or a collection's folder."
        )
    documents = _documents(path)
    if qrels_file is not None:
        if queries_file is None:
            raise InputError("qrels were given without queries. Give the file of queries, too.")
        asked, judged = _file(queries_file), _file(qrels_file)
        whole = check(
            Parts(
                documents=documents,
                queries=queries(asked),
                judgements=lambda: read_judgements(judged),
                files=(path, asked, judged),
                queries_name=str(asked),
                corpus_name=str(path),
            ),
            name=str(path),
            layout="files",
            split="",
            ignore_missing=ignore_missing,
        )
        return AuditTexts(
            str(path), documents, whole.num_documents, whole.queries, whole.qrels, whole.sha256, whole.notes
        )
    files = [path] if queries_file is None else [path, _file(queries_file)]
    known = {} if queries_file is None else _queries(files[1])
    parts = Parts(documents, lambda: iter(()), lambda: (), tuple(files), "", str(path))
    number, empty = scan(parts, set())
    if not number:
        raise InputError(f"{path}: there are no texts in it.")
    sha256 = hashlib.sha256("\n".join(map(file_hash, files)).encode()).hexdigest()
    notes = (f"{empty:,} documents without text.",) if empty else ()
    return AuditTexts(str(path), documents, number, known, None, sha256, notes)


def _file(path: str | Path) -> Path:
    found = Path(path)
    if not found.is_file():
        raise InputError(f"{found}: no such file.")
    return found


def _queries(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for query in queries(path)():
        if query.id in found:
            raise InputError(f"{query.where}: a second query has the id {query.id!r}. Ids must be unique.")
        if not query.text.strip():
            raise InputError(f"{query.where}: the query {query.id!r} is empty. Remove the line.")
        found[query.id] = query.text
    if not found:
        raise InputError(f"{path}: there are no queries in it.")
    return found


def _documents(path: Path) -> Callable[[], Iterator[Document]]:
    """What reads the documents; where a line has no id, its number is the id."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".txt"):

        def lines() -> Iterator[Document]:
            reader = Lines(str(path))
            try:
                for line in reader:
                    if not line.isspace():
                        yield Document(str(reader.number), line.rstrip("\r\n"), reader.where)
            finally:
                reader.close()

        return lines
    if not name.endswith((".jsonl", ".ndjson")):
        raise InputError(f"{path}: texts are read from .jsonl and .txt files (also .gz), or from a folder.")

    def records() -> Iterator[Document]:
        for number, record in enumerate(read_records(path), start=1):
            key = record.id(*DOCUMENT_IDS) if record.has(*DOCUMENT_IDS) else str(number)
            yield Document(key, document_text(record), record.where)

    return records
