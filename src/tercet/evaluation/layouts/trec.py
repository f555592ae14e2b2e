"""MIRACL and other TREC-style collections: topics and qrels as tables, documents as JSON lines."""

from __future__ import annotations

__all__ = ["Trec"]

import re
from pathlib import Path

from tercet.errors import InputError
from tercet.evaluation.collection import Parts
from tercet.evaluation.layouts import layout
from tercet.evaluation.qrels import read_judgements
from tercet.evaluation.readers import TITLE_NOTE, documents, first_file, stem, tab_separated


@layout.register("trec", "miracl")
class Trec:
    """topics/topics.NAME-SPLIT.tsv (id, tab, text), qrels/qrels.NAME-SPLIT.tsv (TREC's four columns).

    The documents are docs-0.jsonl, docs-1.jsonl, … or corpus.jsonl: in the folder itself, in corpus/ or in
    the folder that MIRACL's corpus comes as (miracl-corpus-v1.0-LANG).
    """

    example = "topics/topics.NAME-dev.tsv, qrels/qrels.NAME-dev.tsv, docs-0.jsonl.gz"

    def splits(self, path: Path) -> list[str]:
        """Those with topics and qrels."""
        topics, qrels = _by_split(path, "topics"), _by_split(path, "qrels")
        return sorted(topics.keys() & qrels.keys())

    def parts(self, path: Path, split: str) -> Parts:
        """One split's files."""
        topics, judged = _by_split(path, "topics")[split], _by_split(path, "qrels")[split]
        corpus, folder = _corpus(path)
        if not corpus:
            raise InputError(
                f"{path}: there are topics and qrels, and no documents: put docs-0.jsonl.gz, "
                "docs-1.jsonl.gz, … or corpus.jsonl beside them, or into corpus/."
            )
        return Parts(
            documents=documents(corpus),
            queries=tab_separated(topics),
            judgements=lambda: read_judgements(judged),
            files=(*corpus, topics, judged),
            queries_name=str(topics),
            corpus_name=str(folder),
            notes=(TITLE_NOTE,),
        )


def _by_split(folder: Path, what: str) -> dict[str, Path]:
    """Split -> its file: the name without "topics." before and with what follows its last hyphen."""
    inner = folder / what
    files = sorted(inner.iterdir()) if inner.is_dir() else []
    tables = [file for file in files if file.name.removesuffix(".gz").endswith((".tsv", ".txt"))]
    return {stem(file).removeprefix(f"{what}.").rpartition("-")[2]: file for file in tables}


def _corpus(folder: Path) -> tuple[list[Path], Path]:
    """The documents' files in the order of their numbers, and the folder that they are in."""
    for place in (folder, folder / "corpus", *sorted(folder.glob("*corpus*"))):
        numbered = [file for file in place.glob("docs-*.jsonl*") if place.is_dir()]
        if numbered:
            return sorted(numbered, key=lambda file: (_number(file), file.name)), place
        if (single := first_file(place, "corpus.jsonl")) is not None:
            return [single], place
    return [], folder


def _number(file: Path) -> int:
    found = re.search(r"\d+", file.name)
    return int(found[0]) if found else 0
