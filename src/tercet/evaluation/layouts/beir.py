"""BEIR: corpus.jsonl, queries.jsonl, and qrels/SPLIT.tsv."""

from __future__ import annotations

__all__ = ["Beir"]

from pathlib import Path

from tercet.evaluation.collection import Parts
from tercet.evaluation.layouts import layout
from tercet.evaluation.qrels import read_judgements
from tercet.evaluation.readers import TITLE_NOTE, documents, first_file, queries, stem

_SUFFIXES = (".tsv", ".jsonl", ".txt", ".tsv.gz", ".jsonl.gz", ".txt.gz")


@layout.register("beir")
class Beir:
    """N. Thakur et al. 2021; also judgements in TREC's form or as JSON lines in their place."""

    example = "corpus.jsonl, queries.jsonl, qrels/test.tsv"

    def splits(self, path: Path) -> list[str]:
        """The names of the files in qrels/."""
        if first_file(path, "corpus.jsonl") is None or first_file(path, "queries.jsonl") is None:
            return []
        return sorted({stem(file) for file in _judgement_files(path)})

    def parts(self, path: Path, split: str) -> Parts:
        """One split's files."""
        corpus, asked = first_file(path, "corpus.jsonl"), first_file(path, "queries.jsonl")
        judged = next(file for file in _judgement_files(path) if stem(file) == split)
        assert corpus is not None
        assert asked is not None
        return Parts(
            documents=documents([corpus]),
            queries=queries(asked),
            judgements=lambda: read_judgements(judged),
            files=(corpus, asked, judged),
            queries_name=str(asked),
            corpus_name=str(corpus),
            notes=(TITLE_NOTE,),
        )


def _judgement_files(folder: Path) -> list[Path]:
    inner = folder / "qrels"
    return sorted(path for path in inner.iterdir() if path.name.endswith(_SUFFIXES)) if inner.is_dir() else []
