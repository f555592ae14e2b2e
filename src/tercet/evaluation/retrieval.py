"""Retrieval: every document against every query, by each output of a model and by all of them together."""

from __future__ import annotations

__all__ = ["Found", "Search", "search", "systems_of"]

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from typing import TypeAlias, get_args

import torch

from tercet.embedder import Embedder
from tercet.errors import InputError, nearest
from tercet.evaluation.collection import Collection, Document
from tercet.evaluation.encoding import Encoding
from tercet.evaluation.ranked import Ranking
from tercet.evaluation.runs import Run
from tercet.evaluation.top import TopDocuments
from tercet.scoring import reciprocal_rank_fusion, score_matrix
from tercet.scoring.hybrid import Weights
from tercet.scoring.late import Reduction

Progress: TypeAlias = Callable[[int, int, float | None], None]

# Documents that are embedded and scored at once; multi-vectors of a text take hundreds of times the memory.
_TEXTS, _CHARACTERS = 2048, 1 << 22
_TEXTS_MULTIVECTOR, _CHARACTERS_MULTIVECTOR = 256, 1 << 18
_QUERIES = 1024  # that meet a chunk of documents at once
_ALONE: Weights = (1.0, 1.0, 1.0)  # a score alone has no weight
_FIELDS = {
    "dense": "dense",
    "sparse": "sparse",
    "multivector": "multivector",
    "dense+sparse": "dense_sparse",
    "hybrid": "combined",
}


@dataclass(frozen=True, slots=True)
class Search:
    """How documents are found.

    Attributes:
        depth: so many documents of each query are kept.
        weights: of dense, sparse and multi-vector scores in "dense+sparse" and "hybrid".
        reduction: late interaction as the "mean" over query tokens (BGE-M3's) or their "sum" (ColBERT's).
        rrf_k: softens the first ranks in reciprocal-rank fusion.
        remove_query: a document with the query's own id is not to be found (collections in which queries are
            documents too: ArguAna, Quora).
    """

    depth: int = 1000
    weights: Weights = (1.0, 1.0, 1.0)
    reduction: Reduction = "mean"
    rrf_k: float = 60.0
    remove_query: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.depth, bool) or not isinstance(self.depth, int) or self.depth < 1:
            raise InputError(f"depth is {self.depth!r}; at least one document of each query must be kept.")
        if len(self.weights) != 3 or not all(isfinite(weight) for weight in self.weights):
            raise InputError(
                f"weights are {self.weights!r}; give three finite numbers: of dense, sparse and multivector."
            )
        if self.reduction not in get_args(Reduction):
            raise InputError(
                f"reduction is {self.reduction!r}. {nearest(str(self.reduction), get_args(Reduction))}"
            )
        if not self.rrf_k >= 0:
            raise InputError(f"rrf_k is {self.rrf_k}; give 0 or more (60 is usual).")


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a search found, and what was embedded for it.

    Attributes:
        runs: system -> run. Systems are the outputs; with several of them also "hybrid", their weighted sum,
            and "rrf", their reciprocal-rank fusion; with all three "dense+sparse".
        tokens: of queries and documents together.
        truncated_queries, truncated_documents: that were longer than the model takes, and were cut.
    """

    runs: dict[str, Run]
    tokens: int
    truncated_queries: int
    truncated_documents: int


def search(
    model: Embedder,
    collection: Collection,
    encoding: Encoding,
    how: Search | None = None,
    *,
    progress: Progress | None = None,
) -> Found:
    """The best documents of each query of a collection.

    Documents are read, embedded, scored and forgotten chunk by chunk: memory does not grow with their number.

    Args:
        model: makes the vectors; scores are dot products of them, see `tercet.scoring`.
        collection: what to search.
        encoding: how texts become vectors.
        how: depth, fusion, and whether a query may find itself.
        progress: called with (texts, tokens, part done from 0 to 1) after each chunk.
    """
    how = how or Search()
    names = list(collection.queries)
    weights = how.weights if len(encoding.outputs) > 1 else _ALONE
    queries = encoding.queries(model, list(collection.queries.values()))
    tokens, cut = int(queries.num_tokens.sum()), 0
    if progress is not None:
        progress(len(names), tokens, None)
    tops = {
        system: [TopDocuments(len(block), how.depth) for block in _blocks(names)]
        for system in _systems(encoding.outputs, how.weights)
    }
    done = 0
    for chunk in _chunks(collection.documents(), "multivector" in encoding.outputs):
        ids = [document.id for document in chunk]
        documents = encoding.documents(model, [document.text for document in chunk])
        for number, block in enumerate(_blocks(names)):
            first = number * _QUERIES
            here = queries[first : first + len(block)]
            scores = score_matrix(here, documents, weights=weights, reduction=how.reduction)
            own = _own(block, ids) if how.remove_query else None
            for system, parts in tops.items():
                matrix: torch.Tensor = getattr(scores, _FIELDS[system])
                if own is not None:
                    matrix = matrix.index_put(own, matrix.new_tensor(-torch.inf))
                parts[number].add(ids, matrix)
        done += len(chunk)
        tokens += int(documents.num_tokens.sum())
        cut += int(documents.truncated.sum())
        if progress is not None:
            progress(len(chunk), int(documents.num_tokens.sum()), done / max(done, collection.num_documents))
    if done != collection.num_documents:
        raise InputError(
            f"{collection.name}: it had {collection.num_documents:,} documents when it was checked, and "
            f"{done:,} now. Let it be while it is evaluated."
        )
    runs: dict[str, Run] = {
        system: dict(zip(names, (ranking for part in parts for ranking in part.rankings()), strict=True))
        for system, parts in tops.items()
    }
    if len(encoding.outputs) > 1:
        runs["rrf"] = _fused([runs[output] for output in encoding.outputs], how)
    return Found(runs, tokens, int(queries.truncated.sum()), cut)


def systems_of(outputs: tuple[str, ...], weights: Weights) -> tuple[str, ...]:
    """Names of all runs that `search` gives."""
    return (*_systems(outputs, weights), *(["rrf"] if len(outputs) > 1 else []))


def _systems(outputs: tuple[str, ...], weights: Weights) -> tuple[str, ...]:
    """Names of what ranks by a score."""
    if len(outputs) == 1:
        return outputs
    both = ("dense+sparse",) if len(outputs) == 3 and weights[0] + weights[1] != 0 else ()
    return (*outputs, *both, "hybrid")


def _blocks(names: list[str]) -> Iterator[list[str]]:
    return (names[first : first + _QUERIES] for first in range(0, len(names), _QUERIES))


def _chunks(documents: Iterable[Document], multivector: bool) -> Iterator[list[Document]]:
    """Consecutive documents, bounded in number and in characters."""
    texts = _TEXTS_MULTIVECTOR if multivector else _TEXTS
    characters = _CHARACTERS_MULTIVECTOR if multivector else _CHARACTERS
    chunk: list[Document] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document.text)
        if len(chunk) >= texts or size >= characters:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _own(queries: list[str], documents: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns where the query and the document have one id."""
    places = {name: column for column, name in enumerate(documents)}
    pairs = [(row, places[name]) for row, name in enumerate(queries) if name in places]
    rows, columns = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    return rows, columns


def _fused(runs: list[Run], how: Search) -> Run:
    """The runs fused by rank, to the same depth."""
    fused = {}
    for query in runs[0]:
        found = reciprocal_rank_fusion([run[query].ids for run in runs], k=how.rrf_k)
        ranking = Ranking.of(dict(found))
        fused[query] = Ranking(ranking.ids[: how.depth], ranking.scores[: how.depth])
    return fused
