"""What a run learns from: the files of its recipe, the objective of each, and their batches in order."""

from __future__ import annotations

__all__ = ["Course"]

import logging
from collections.abc import Callable, Iterator, Sequence
from math import ceil

from tercet.training.data import Order, Source, open_source
from tercet.training.data.order import Chosen
from tercet.training.recipe import TrainRecipe
from tercet.training.steps import terms_of

logger = logging.getLogger(__name__)


class Course:
    """The batches of a run in this process.

    Attributes:
        sources: the files, every line of them checked.
        objectives: what is learned from each.
        steps: how many the recipe asks for.
    """

    def __init__(
        self,
        recipe: TrainRecipe,
        measure: Callable[[Sequence[str]], Sequence[int]],
        process: int,
        processes: int,
        *,
        paired: bool = False,
    ) -> None:
        """`measure` gives texts' lengths in tokens; it is asked where batches are counted in them.

        `paired`: each passage is read together with its query.
        """
        counted = None if recipe.batch.tokens is None else measure
        self.sources: list[Source] = [open_source(one, measure=counted, paired=paired) for one in recipe.data]
        for note in (note for source in self.sources for note in source.notes):
            logger.warning("%s", note)
        self.objectives = terms_of(recipe.losses, self.sources)
        for source, objective in zip(self.sources, self.objectives, strict=True):
            if source.some_scored and not any("scores" in term.loss.uses for term in objective.terms):
                logger.warning("%s: no loss learns from the teacher's scores in it.", source.recipe.path)
        self._batch = recipe.batch
        self._order = Order(self.sources, recipe.batch, recipe.seed, process, processes)
        if alone := self._order.alone(0):
            logger.warning(
                "Left out of the first epoch: %s, alone in a batch with one passage, which leaves nothing to "
                "be told from. batch.texts, batch.tokens and group_size decide that.",
                "1 query" if alone == 1 else f"{alone:,} queries",
            )
        self.steps = recipe.steps or self._steps_of(recipe.epochs or 1.0)
        self._batches: Iterator[Chosen] | None = None
        self._at = (-1, -1)
        self._last = -1

    def next(self, epoch: int, place: int) -> tuple[Chosen, tuple[int, int]]:
        """The batch at a place of the order, and the place behind it."""
        if self._batches is None or self._at != (epoch, place):
            self._batches, self._at = self._order.epoch(epoch, place), (epoch, place)
            self._last = self._order.count(epoch) - 1
        chosen = next(self._batches)
        self._at = (epoch, place + 1) if place < self._last else (epoch + 1, 0)
        if self._at[1] == 0:
            self._batches = None
        return chosen, self._at

    def _steps_of(self, epochs: float) -> int:
        """Steps of so many epochs; their batches differ in number where tokens bound them."""
        whole = int(epochs)
        counts = [self._order.count(0)] * whole
        if self._batch.tokens is not None:
            counts = [self._order.count(epoch) for epoch in range(whole)]
        part = epochs - whole
        batches = sum(counts) + (part * self._order.count(whole) if part else 0.0)
        # 0.1 + 0.2 and their like are not meant to cost another step.
        return max(1, ceil(round(batches / self._batch.accumulate, 6)))
