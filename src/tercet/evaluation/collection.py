"""Documents, queries, and judgements of which belongs to which: checked before anything is embedded."""

from __future__ import annotations

__all__ = ["Collection", "Document", "Parts", "check", "document_text", "scan"]

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tercet.errors import InputError
from tercet.evaluation.qrels import Judgement, collect
from tercet.evaluation.records import Record, file_hash

_SLICE = 65536


class Document(NamedTuple):
    """One text with its id, and where it stands."""

    id: str
    text: str
    where: str


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What a layout finds in a folder: where things are, and how to read them. Nothing is read yet.

    Attributes:
        documents, queries, judgements: read from the beginning at each call.
        files: all files that are read, for the hash of the data.
        queries_name: where the queries stand, for messages.
        corpus_name: where the documents stand, for messages.
        notes: sentences about what a reader of the figures should know.
    """

    documents: Callable[[], Iterator[Document]]
    queries: Callable[[], Iterator[Document]]
    judgements: Callable[[], Iterable[Judgement]]
    files: tuple[Path, ...]
    queries_name: str
    corpus_name: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Collection:
    """Documents, judged queries and judgements that fit together.

    Attributes:
        name: the folder or file.
        layout: the form it has.
        split: the part of the judgements.
        documents: the documents in their order, read anew at each call; never held.
        num_documents: how many there are.
        queries: id -> text, of those with judgements, in the order of the file.
        qrels: query -> document -> grade.
        sha256: of everything that was read, and how.
        notes: what was left out or joined, in sentences.
    """

    name: str
    layout: str
    split: str
    documents: Callable[[], Iterator[Document]]
    num_documents: int
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    sha256: str
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """What it is, without the texts."""
        return {
            "name": self.name,
            "layout": self.layout,
            "split": self.split,
            "sha256": self.sha256,
            "documents": self.num_documents,
            "queries": len(self.queries),
            "judgements": sum(map(len, self.qrels.values())),
            "notes": list(self.notes),
        }


def document_text(record: Record) -> str:
    """Title and text with a space between, as BEIR joins them; the text alone where there is no title."""
    text = record.text("text", "contents", "content")
    title = record.values.get("title")
    return f"{record.text('title')} {text}".strip() if title else text


def check(parts: Parts, *, name: str, layout: str, split: str, ignore_missing: bool = False) -> Collection:
    """The collection of these parts, read through once.

    The texts of documents are not held, nor their ids: 8 bytes a document.

    Raises:
        InputError: naming file and line: an id that two documents or two queries have, an empty query, or
            (unless `ignore_missing`) a judgement of what is not there. Also where nothing is left to measure.
    """
    queries: dict[str, str] = {}
    for query in parts.queries():
        if query.id in queries:
            raise InputError(f"{query.where}: a second query has the id {query.id!r}. Ids must be unique.")
        if not query.text.strip():
            raise InputError(
                f"{query.where}: the query {query.id!r} is empty, so nothing can be found by it. "
                "Remove it, and its judgements."
            )
        queries[query.id] = query.text
    qrels = collect(
        parts.judgements(), queries.__contains__, queries=parts.queries_name, ignore_missing=ignore_missing
    )
    wanted = {document for grades in qrels.grades.values() for document in grades}
    num_documents, empty = scan(parts, wanted)
    if wanted:  # what is left was judged, and is not there
        if not ignore_missing:
            bad = next(
                line for line in parts.judgements() if line.document in wanted and line.query in queries
            )
            raise InputError(
                f"{bad.where}: the document {bad.document!r} is not in {parts.corpus_name}; {len(wanted)} "
                "judged documents are not. Do both belong to the same collection? --ignore-missing "
                "(ignore_missing=True) leaves such judgements out and counts them."
            )
        for query_id, grades in list(qrels.grades.items()):
            kept = {document: grade for document, grade in grades.items() if document not in wanted}
            qrels.unknown_documents += len(grades) - len(kept)
            qrels.grades[query_id] = kept
            if not kept:
                del qrels.grades[query_id]
    if not num_documents:
        raise InputError(f"{parts.corpus_name}: there are no documents in it.")
    if not qrels.grades:
        raise InputError(
            f"{name}: no query of split {split!r} has a judgement, so there is nothing to measure."
        )
    judged = {query: text for query, text in queries.items() if query in qrels.grades}
    notes = list(parts.notes)
    counted = {
        "queries without judgements, which are not searched": len(queries) - len(judged),
        "documents without text": empty,
        "judgements that say again what was said": qrels.repeated,
        "judgements of unknown queries, left out": qrels.unknown_queries,
        "judgements of unknown documents, left out": qrels.unknown_documents,
    }
    notes += [f"{number:,} {what}." for what, number in counted.items() if number]
    return Collection(
        name=name,
        layout=layout,
        split=split,
        documents=parts.documents,
        num_documents=num_documents,
        queries=judged,
        qrels={query: qrels.grades[query] for query in judged},
        sha256=_hash(parts, layout, split, ignore_missing),
        notes=tuple(notes),
    )


def scan(parts: Parts, wanted: set[str]) -> tuple[int, int]:
    """(documents, those without text); takes ids that are there out of `wanted`, and refuses a second one."""
    hashes: list[np.ndarray[Any, np.dtype[np.uint64]]] = []
    empty = 0
    documents = parts.documents()
    while chunk := list(islice(documents, _SLICE)):
        # 8 bytes an id: the ids themselves would take more memory than everything else here
        digests = b"".join(hashlib.blake2b(one.id.encode(), digest_size=8).digest() for one in chunk)
        hashes.append(np.frombuffer(digests, dtype=np.uint64))
        wanted.difference_update(one.id for one in chunk)
        empty += sum(not one.text.strip() for one in chunk)
    if not hashes:
        return 0, 0
    every = np.concatenate(hashes)
    unique, counts = np.unique(every, return_counts=True)
    if len(unique) < len(every):
        _name_second(parts, set(unique[counts > 1].tolist()))
    return len(every), empty


def _name_second(parts: Parts, suspects: set[int]) -> None:
    """An error that names the second document with an id; none where only the hashes were equal."""
    seen: dict[str, str] = {}
    for one in parts.documents():
        digest = hashlib.blake2b(one.id.encode(), digest_size=8).digest()
        if int(np.frombuffer(digest, dtype=np.uint64)[0]) in suspects:
            if one.id in seen:
                raise InputError(
                    f"{one.where}: a second document has the id {one.id!r}; the first is at {seen[one.id]}. "
                    "Ids must be unique."
                )
            seen[one.id] = one.where


def _hash(parts: Parts, layout: str, split: str, ignore_missing: bool) -> str:
    """Of every file's bytes and of how they are read; their names do not matter."""
    said = f"{layout}\n{split}\n{ignore_missing}\n"
    return hashlib.sha256((said + "\n".join(map(file_hash, parts.files))).encode()).hexdigest()
