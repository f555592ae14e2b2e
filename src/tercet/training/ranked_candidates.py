"""How well a reranker ranks, while it is trained: candidates of each query, put into order by its scores."""

from __future__ import annotations

__all__ = ["RankedCandidates"]

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tercet.errors import InputError
from tercet.evaluation.candidates import has_candidates, read_candidates
from tercet.evaluation.collection import Document
from tercet.evaluation.layouts import open_collection
from tercet.evaluation.metrics import evaluate_run, parse_metrics
from tercet.evaluation.reranked_runs import with_those_below
from tercet.evaluation.reranking import candidate_documents
from tercet.evaluation.runs import read_run
from tercet.evaluation.second_stage import Found, found_in_run, rerank
from tercet.training.recipe import ValidationRecipe


@dataclass(frozen=True, slots=True)
class RankedCandidates:
    """The queries of a validation, each with its documents, and the judgements.

    Attributes:
        found: the queries; all their texts are held.
        qrels: query -> document -> grade.
        metric: what is measured.
        below: query -> documents that a first stage found, too, and that stay behind those.
    """

    found: list[Found]
    qrels: dict[str, dict[str, int]]
    metric: str
    below: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, how: ValidationRecipe) -> RankedCandidates:
        """What a recipe names, read and checked.

        Raises:
            InputError: a file that cannot be read, or there is nothing that says which documents to rank.
            UnknownNameError: no such metric.
        """
        parse_metrics([how.metric])
        path = Path(how.collection)
        if how.run is None:
            if not has_candidates(path):
                raise InputError(
                    f"validation.collection: {path} does not say which documents a reranker is to rank. Give "
                    "a .jsonl file with query, pos and neg, or name what a first stage found as "
                    "validation.run (tercet evaluate --runs writes it)."
                )
            return cls(*_own(path), how.metric, {})
        collection = open_collection(path, split=how.split)
        run = Path(how.run)
        judged = {name: ranking for name, ranking in read_run(run).items() if name in collection.qrels}
        if not judged:
            raise InputError(
                f"validation.run: no query of {run} has a judgement in {path}. Give a run of this collection."
            )
        found = found_in_run(
            judged,
            (Document(name, text, how.collection) for name, text in collection.queries.items()),
            collection.documents(),
            depth=how.depth,
            where=how.run,
        )
        below = {name: ranking.ids[how.depth :] for name, ranking in judged.items()}
        return cls(found, collection.qrels, how.metric, below)

    def measured(self, score: Callable[[list[tuple[str, str]]], Tensor]) -> float:
        """The mean of the metric over the queries; `score` gives (pairs,) of (query, document) pairs."""
        run = {
            one.found.id: with_those_below(one.ranking, self.below.get(one.found.id, ()))
            for one in rerank(score, self.found)
        }
        [value] = evaluate_run(run, self.qrels, [self.metric]).means.values()
        return value


def _own(path: Path) -> tuple[list[Found], dict[str, dict[str, int]]]:
    """Each query of a file with its own documents, and which of them answer it."""
    found, qrels = [], {}
    for number, one in enumerate(read_candidates(path), start=1):
        documents = {document.id: document.text for document in candidate_documents([one])}
        found.append(Found(str(number), one.query, documents))
        qrels[str(number)] = {name: int(place < len(one.positive)) for place, name in enumerate(documents)}
    return found, qrels
