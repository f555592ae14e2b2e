"""MLDR, and MIRACL as JSON lines: SPLIT.jsonl with positive and negative passages, and corpus.jsonl."""

from __future__ import annotations

__all__ = ["Mldr"]

from collections.abc import Iterator
from pathlib import Path

from tercet.errors import InputError
from tercet.evaluation.collection import Parts
from tercet.evaluation.layouts import layout
from tercet.evaluation.qrels import Judgement
from tercet.evaluation.readers import TITLE_NOTE, documents, first_file, queries, stem
from tercet.evaluation.records import Record, read_records

_GRADES = {"positive_passages": 1, "negative_passages": 0}


@layout.register("mldr")
class Mldr:
    """A query has "query_id", "query", "positive_passages" (grade 1) and "negative_passages" (grade 0)."""

    example = "corpus.jsonl, and test.jsonl with query_id, query, positive_passages"

    def splits(self, path: Path) -> list[str]:
        """Those JSON lines beside the corpus that have positive passages."""
        if not path.is_dir() or first_file(path, "corpus.jsonl") is None:
            return []
        files = (*path.glob("*.jsonl"), *path.glob("*.jsonl.gz"))
        return sorted({stem(file) for file in files if stem(file) != "corpus" and _has_passages(file)})

    def parts(self, path: Path, split: str) -> Parts:
        """One split's files."""
        corpus, asked = first_file(path, "corpus.jsonl"), first_file(path, f"{split}.jsonl")
        assert corpus is not None
        assert asked is not None
        return Parts(
            documents=documents([corpus]),
            queries=queries(asked),
            judgements=lambda: _judgements(asked),
            files=(corpus, asked),
            queries_name=str(asked),
            corpus_name=str(corpus),
            notes=(TITLE_NOTE,),
        )


def _has_passages(path: Path) -> bool:
    first = next(read_records(path), None)
    return first is not None and first.has("positive_passages")


def _judgements(path: Path) -> Iterator[Judgement]:
    for record in read_records(path):
        query = record.id("query_id", "qid", "_id", "id")
        for key, grade in _GRADES.items():
            for passage in record.items(key):
                if not isinstance(passage, dict):
                    raise InputError(
                        f'{record.where}: {key!r} holds something else than objects such as {{"docid": "1"}}.'
                    )
                document = Record(record.where, passage).id("docid", "doc_id", "_id", "id")
                yield Judgement(query, document, grade, record.where)
