"""A reranker's loss where a run calls an embedder's: its logits come as dense outputs."""

from __future__ import annotations

__all__ = ["is_of_rerankers", "make_term"]

from collections.abc import Sequence
from dataclasses import dataclass

from tercet.errors import InputError
from tercet.training.losses import (
    RERANKER_LOSSES,
    Known,
    Loss,
    RerankerLoss,
    make_loss,
    make_reranker_loss,
)
from tercet.training.outputs import Outputs
from tercet.training.recipe import LossRecipe
from tercet.training.scores import Head
from tercet.training.targets import LossValue, Targets


@dataclass(frozen=True, slots=True)
class _OfLogits:
    """The loss of logits (queries, group), which stand as dense outputs where queries' would."""

    loss: RerankerLoss

    @property
    def uses(self) -> frozenset[Known]:
        return self.loss.uses

    @property
    def heads(self) -> tuple[Head, ...]:
        return ()

    def __call__(self, queries: Outputs, passages: Outputs, targets: Targets) -> LossValue:
        assert queries.dense is not None
        return self.loss(queries.dense, targets)


def make_term(recipe: LossRecipe) -> Loss:
    """The loss of a recipe; a reranker's in the form of an embedder's.

    Raises:
        UnknownNameError, InputError: as `make_loss`; a head for a reranker's.
    """
    if not _is_of_reranker(recipe):
        return make_loss(recipe.name, recipe.options, head=recipe.head)
    if recipe.head is not None:
        raise InputError(f"{recipe.name} is a reranker's loss, which has logits alone: leave head out.")
    return _OfLogits(make_reranker_loss(recipe.name, recipe.options))


def is_of_rerankers(losses: Sequence[LossRecipe]) -> bool:
    """Whether a reranker is trained.

    Raises:
        InputError: some of the losses are a reranker's, and some an embedder's.
    """
    found = {_is_of_reranker(one) for one in losses}
    if len(found) > 1:
        raise InputError(
            "losses: some are a reranker's (reranker_…) and some an embedder's. A run trains one of the two."
        )
    return found == {True}


def _is_of_reranker(recipe: LossRecipe) -> bool:
    # By the prefix, too: a misspelt one is answered with the nearest of its kind.
    return recipe.name in RERANKER_LOSSES or recipe.name.startswith("reranker")
