"""An Embedder whose routes have encoders of their own."""

from __future__ import annotations

__all__ = ["RoutedEmbedder", "embedder"]

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from tercet.checkpoint.layout import Checkpoint
from tercet.embedder.embedder import Embedder
from tercet.embedder.options import Asked, Call, route_of
from tercet.embeddings import Embeddings
from tercet.engines.forks import stand_alone
from tercet.precision.plan import Plan


class RoutedEmbedder(Embedder):
    """An Embedder for each encoder, of which each text takes that of its route.

    All follow one plan; layers that it keeps in float32 are those of the largest encoder. `tokenizer` and
    `max_length` are that encoder's: each route has its own, by which its texts are cut.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        plan: Plan,
        *,
        outputs: Sequence[str] | None = None,
        max_length: int | None = None,
    ) -> None:
        stand_alone()
        self.checkpoint, self.plan = checkpoint, plan
        self._asked = (None if outputs is None else tuple(outputs), max_length)
        self._members: dict[str, Embedder] = {}
        for number, one in enumerate(checkpoint.members):
            opened = Embedder(
                replace(one, prompts=checkpoint.prompts),
                plan if number == 0 else replace(plan, float32_layers=()),
                outputs=outputs,
                max_length=max_length,
            )
            assert one.routes is not None
            self._members |= dict.fromkeys(one.routes.modules, opened)
            if number == 0:
                largest = opened
        self._late = None
        self._engine, self._heads, self._transfers = largest._engine, largest._heads, largest._transfers
        self._position_limit = largest._position_limit
        self.tokenizer, self.max_length = largest.tokenizer, largest.max_length
        self.outputs, self.dimension = largest.outputs, largest.dimension

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.checkpoint, self.plan, *self._asked)

    def member(self, task: str | None = None) -> Embedder:
        """The Embedder of the route that texts for a task take."""
        route = route_of(task, self.checkpoint)
        assert route is not None
        return self._members[route]

    def _call(self, asked: Asked) -> Call:
        route = route_of(asked.task, self.checkpoint)
        assert route is not None
        return self._members[route]._call(replace(asked, task=route))

    def _encode(self, texts: str | Iterable[str], call: Call) -> Embeddings:
        return self._of(call)._encode(texts, call)

    def _stream(self, texts: Iterator[str], call: Call) -> Iterator[Embeddings]:
        return self._of(call)._stream(texts, call)

    def _of(self, call: Call) -> Embedder:
        assert call.options.route is not None
        return self._members[call.options.route]


def embedder(
    checkpoint: Checkpoint,
    plan: Plan,
    *,
    outputs: Sequence[str] | None = None,
    max_length: int | None = None,
) -> Embedder:
    """The checkpoint, loaded as planned: with one encoder, or one for each of its routes."""
    kind = RoutedEmbedder if checkpoint.branches else Embedder
    return kind(checkpoint, plan, outputs=outputs, max_length=max_length)


def _restore(
    checkpoint: Checkpoint, plan: Plan, outputs: tuple[str, ...] | None, max_length: int | None
) -> Embedder:
    """What unpickling calls: the weights are read again from their files, not carried along."""
    return RoutedEmbedder(checkpoint, plan, outputs=outputs, max_length=max_length)
