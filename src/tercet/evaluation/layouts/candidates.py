"""JSON lines of queries with their documents, as a collection: all documents of the file are searched."""

from __future__ import annotations

__all__ = ["CandidateFile"]

import hashlib
from collections.abc import Iterator
from pathlib import Path

from tercet.evaluation.candidates import has_candidates, read_candidates
from tercet.evaluation.collection import Document, Parts
from tercet.evaluation.layouts import layout
from tercet.evaluation.qrels import Judgement
from tercet.evaluation.readers import stem


@layout.register("candidates")
class CandidateFile:
    """A document's id is a hash of its text, a query's the number of its line among the queries, from 1."""

    example = 'FILE.jsonl with {"query": "...", "pos": ["..."], "neg": ["..."]}'

    def splits(self, path: Path) -> list[str]:
        """The file itself."""
        return [stem(path)] if has_candidates(path) else []

    def parts(self, path: Path, split: str) -> Parts:
        """The one file."""
        return Parts(
            documents=lambda: _documents(path),
            queries=lambda: (
                Document(str(number), one.query, one.where)
                for number, one in enumerate(read_candidates(path), 1)
            ),
            judgements=lambda: _judgements(path),
            files=(path,),
            queries_name=str(path),
            corpus_name=str(path),
            notes=("The documents are all those of the file, each once.",),
        )


def _documents(path: Path) -> Iterator[Document]:
    seen: set[str] = set()
    for one in read_candidates(path):
        for text in (*one.positive, *one.negative):
            if (name := _id(text)) not in seen:
                seen.add(name)
                yield Document(name, text, one.where)


def _judgements(path: Path) -> Iterator[Judgement]:
    for number, one in enumerate(read_candidates(path), 1):
        for grade, texts in ((1, one.positive), (0, one.negative)):
            yield from (Judgement(str(number), _id(text), grade, one.where) for text in texts)


def _id(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
