"""Reranking: the documents of each query, relevant and not, put into order by a model's scores."""

from __future__ import annotations

__all__ = ["Reranked", "candidate_documents", "candidate_queries", "rerank", "systems_of"]

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from tercet.embedder import Embedder
from tercet.evaluation.candidates import Candidates
from tercet.evaluation.collection import Document
from tercet.evaluation.encoding import Encoding
from tercet.evaluation.ranked import Ranking
from tercet.evaluation.runs import Run
from tercet.scoring import score_matrix
from tercet.scoring.hybrid import Weights
from tercet.scoring.late import Reduction

_CHUNK_DOCUMENTS = 512


@dataclass(frozen=True, slots=True, eq=False)
class Reranked:
    """Rankings of every query's documents.

    Attributes:
        runs: system -> run; queries are numbered from 1 in the order of the file, a document's id is a hash
            of its text, so that it says nothing of its relevance where scores are equal.
        qrels: query -> document -> 1 or 0.
    """

    runs: dict[str, Run]
    qrels: dict[str, dict[str, int]]


def rerank(
    model: Embedder,
    queries: Iterable[Candidates],
    encoding: Encoding,
    *,
    weights: Weights = (1.0, 1.0, 1.0),
    reduction: Reduction = "mean",
    progress: Callable[[int, int, float | None], None] | None = None,
) -> Reranked:
    """The documents of each query by each output's score, and by their weighted sum ("hybrid")."""
    systems = systems_of(encoding.outputs)
    runs: dict[str, dict[str, Ranking]] = {system: {} for system in systems}
    qrels: dict[str, dict[str, int]] = {}
    waiting = iter(queries)
    while chunk := _chunk(waiting):
        texts = list(dict.fromkeys(text for one in chunk for text in (*one.positive, *one.negative)))
        places = {text: place for place, text in enumerate(texts)}
        asked = encoding.queries(model, [one.query for one in chunk])
        documents = encoding.documents(model, texts)
        for row, one in enumerate(chunk):
            name, ids = str(len(qrels) + 1), [_id(text) for text in (*one.positive, *one.negative)]
            own = documents[[places[text] for text in (*one.positive, *one.negative)]]
            scores = score_matrix(asked[row], own, weights=weights, reduction=reduction)
            for system in systems:
                values = getattr(scores, "combined" if system == "hybrid" else system)[0].tolist()
                runs[system][name] = Ranking.of(dict(zip(ids, values, strict=True)))
            qrels[name] = {found: int(place < len(one.positive)) for place, found in enumerate(ids)}
        if progress is not None:
            tokens = int(asked.num_tokens.sum()) + int(documents.num_tokens.sum())
            progress(len(chunk) + len(texts), tokens, None)
    return Reranked(dict(runs), qrels)


def systems_of(outputs: tuple[str, ...]) -> tuple[str, ...]:
    """Names of all runs that `rerank` gives."""
    return (*outputs, *(["hybrid"] if len(outputs) > 1 else []))


def candidate_queries(queries: Iterable[Candidates]) -> Iterator[Document]:
    """The queries under the names that they have in a run of `rerank`."""
    return (Document(str(number), one.query, one.where) for number, one in enumerate(queries, start=1))


def candidate_documents(queries: Iterable[Candidates]) -> Iterator[Document]:
    """The documents of all queries under the names that they have in a run of `rerank`."""
    return (
        Document(_id(text), text, one.where) for one in queries for text in (*one.positive, *one.negative)
    )


def _chunk(queries: Iterable[Candidates]) -> list[Candidates]:
    """The next queries, with so many documents together."""
    chunk: list[Candidates] = []
    documents = 0
    for one in islice(queries, _CHUNK_DOCUMENTS):
        chunk.append(one)
        documents += len(one.positive) + len(one.negative)
        if documents >= _CHUNK_DOCUMENTS:
            break
    return chunk


def _id(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
