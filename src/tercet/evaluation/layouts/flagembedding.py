"""FlagEmbedding's own data sets: corpus.jsonl, SPLIT_queries.jsonl, SPLIT_qrels.jsonl."""

from __future__ import annotations

__all__ = ["FlagEmbedding"]

from pathlib import Path

from tercet.evaluation.collection import Parts
from tercet.evaluation.layouts import layout
from tercet.evaluation.qrels import read_judgements
from tercet.evaluation.readers import TITLE_NOTE, documents, first_file, queries, stem


@layout.register("flagembedding")
class FlagEmbedding:
    """Documents have "id", "title", "text"; queries "id", "text"; judgements "qid", "docid", "relevance"."""

    example = "corpus.jsonl, test_queries.jsonl, test_qrels.jsonl"

    def splits(self, path: Path) -> list[str]:
        """Those with both files."""
        if first_file(path, "corpus.jsonl") is None:
            return []
        found = {stem(file).removesuffix("_qrels") for file in path.glob("*_qrels.jsonl*")}
        return sorted(split for split in found if first_file(path, f"{split}_queries.jsonl") is not None)

    def parts(self, path: Path, split: str) -> Parts:
        """One split's files."""
        corpus = first_file(path, "corpus.jsonl")
        asked, judged = (first_file(path, f"{split}_{what}.jsonl") for what in ("queries", "qrels"))
        assert corpus is not None
        assert asked is not None
        assert judged is not None
        return Parts(
            documents=documents([corpus]),
            queries=queries(asked),
            judgements=lambda: read_judgements(judged),
            files=(corpus, asked, judged),
            queries_name=str(asked),
            corpus_name=str(corpus),
            notes=(TITLE_NOTE,),
        )
