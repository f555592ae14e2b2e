"""A first stage's run whose best documents a cross-encoder ranks anew; the others keep their order below."""

from __future__ import annotations

__all__ = ["SecondStage", "reranked_run", "with_those_below"]

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor

from tercet.errors import InputError, UnknownNameError, nearest
from tercet.evaluation.collection import Document
from tercet.evaluation.encoding import text_identity
from tercet.evaluation.ranked import Ranking
from tercet.evaluation.report import System
from tercet.evaluation.runs import Run
from tercet.evaluation.second_stage import found_in_run, rerank
from tercet.evaluation.significance import paired_randomization
from tercet.reranker import Reranker, load_reranker


@dataclass(frozen=True, slots=True, eq=False)
class Reranked:
    """A run, the pairs that were scored for it and the seconds that took."""

    run: Run
    work: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class SecondStage:
    """What ranks anew, and what of.

    Attributes:
        model: the cross-encoder.
        depth: so many documents of each query.
        first_stage: the system that found them.
    """

    model: Reranker
    depth: int
    first_stage: str

    @classmethod
    def of(
        cls,
        reranker: Reranker | str | Path | Callable[[], Reranker],
        *,
        device: str | None,
        depth: int,
        first_stage: str | None,
        systems: Sequence[str],
    ) -> SecondStage:
        """The stage, its model loaded.

        Args:
            reranker: loaded, a folder or hub id, or a function that loads it.
            device: for a folder or hub id.
            depth: see above.
            first_stage: one of `systems`; None for the only one, and of several for "hybrid".
            systems: that there will be.

        Raises:
            UnknownNameError: no such system.
            InputError: a model with several labels, of which none says what is better.
        """
        if first_stage is None:
            first_stage = systems[0] if len(systems) == 1 else "hybrid"
        elif first_stage not in systems:
            close = nearest(first_stage, systems)
            raise UnknownNameError(f"first_stage: there is no system {first_stage!r} here. {close}")
        if isinstance(reranker, (str, Path)):
            reranker = load_reranker(reranker, device=device)
        model = reranker if isinstance(reranker, Reranker) else reranker()
        if model.num_labels != 1:
            raise InputError(
                f"{model.checkpoint.name} gives {model.num_labels} scores a pair, and it is not known which "
                "ranks. Take a model with one."
            )
        return cls(model, depth, first_stage)

    def settings(self) -> dict[str, Any]:
        """Everything that decides its ranking, JSON-safe: no name of a folder is part of it."""
        checkpoint, plan = self.model.checkpoint, self.model.plan
        return {
            "depth": self.depth,
            "first_stage": self.first_stage,
            "weights_sha256": checkpoint.weights_hash(),
            "architecture": checkpoint.architecture,
            "scheme": plan.scheme.to_json(),
            "precision": plan.precision.to_json(),
            "float32_layers": list(plan.float32_layers),
            "device": plan.device,
            "max_length": self.model.max_length,
            "activation": self.model.activation,
            **text_identity(checkpoint, self.model.tokenizer),
        }

    def run(
        self,
        runs: Mapping[str, Run],
        queries: Iterable[Document],
        documents: Iterable[Document],
        *,
        progress: Callable[[int, float], None] | None = None,
    ) -> Reranked:
        """The first stage's run with its best documents ranked anew: see `reranked_run`."""
        before, start = runs[self.first_stage], perf_counter()
        run = reranked_run(
            self.model.score,
            before,
            queries,
            documents,
            depth=self.depth,
            where=self.first_stage,
            progress=progress,
        )
        pairs = sum(min(self.depth, len(ranking)) for ranking in before.values())
        return Reranked(run, {"pairs": pairs, "rerank_seconds": perf_counter() - start})

    def changes(self, before: System, after: System) -> dict[str, Any]:
        """Its name, and metric -> mean change from the first stage and the p-value of a paired test."""
        found = {}
        for name in before.per_query:
            values = dict(zip(after.queries, after.per_query[name], strict=True))
            test = paired_randomization(before.per_query[name], [values[query] for query in before.queries])
            found[name] = {"difference": test.difference, "p_value": test.p_value}
        return {"reranker": self.model.checkpoint.name, "changes": found}


def reranked_run(
    score: Callable[[list[tuple[str, str]]], Tensor],
    run: Run,
    queries: Iterable[Document],
    documents: Iterable[Document],
    *,
    depth: int,
    where: str,
    progress: Callable[[int, float], None] | None = None,
) -> dict[str, Ranking]:
    """The run with the best documents of each query in the order of new scores.

    Documents below `depth` follow in the order in which they stood, so that both runs hold the same ones and
    only ranks differ. They have no new score: theirs count down by 1 from the lowest new one.

    Args:
        score: (query, document) pairs -> (pairs,), such as `Reranker.score`.
        run: query -> its ranking.
        queries, documents: ids and texts, read once.
        depth: so many documents of each query are ranked anew.
        where: the run's name, for messages.
        progress: called with (pairs, part of the queries done): with (0, 0.0) first, then after each query.
    """
    found = found_in_run(run, queries, documents, depth=depth, where=where)
    made: dict[str, Ranking] = {}
    if progress is not None:
        progress(0, 0.0)
    for one in rerank(score, found):
        made[one.found.id] = with_those_below(one.ranking, run[one.found.id].ids[depth:])
        if progress is not None:
            progress(len(one.ranking), len(made) / len(found))
    return made


def with_those_below(ranking: Ranking, below: tuple[str, ...]) -> Ranking:
    """The ranking with documents behind it that were not ranked anew; scores as `reranked_run` says."""
    lowest = float(ranking.scores[-1]) if len(ranking) else 0.0
    # In float32 a step of 1 vanishes beside numbers above 2^24, which no score is near.
    steps = np.arange(1, len(below) + 1, dtype=np.float64)
    scores = np.concatenate([ranking.scores, (lowest - steps).astype(np.float32)])
    return Ranking(ranking.ids + below, scores)
