"""A reranker's loss where a run calls an embedder's: its logits come as dense outputs."""

from __future__ import annotations

__all__ = ["is_of_rerankers", "make_term", "refuse_rerankers"]

from collections.abc import Sequence
from dataclasses import dataclass

from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.reranker_files import is_reranker
from tercet.checkpoint.source import find
from tercet.errors import CheckpointError, InputError
from tercet.training.losses import (
    RERANKER_LOSSES,
    Known,
    Loss,
    RerankerLoss,
    make_loss,
    make_reranker_loss,
)
from tercet.training.outputs import Outputs
from tercet.training.recipe import LossRecipe, TrainRecipe
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
    found = {_is_of_reranker(one): one.name for one in losses}
    if len(found) > 1:
        raise InputError(
            f"losses: {found[True]} is a reranker's and {found[False]} an embedder's. A run trains one of "
            "the two; leave one out."
        )
    return True in found


def refuse_rerankers(recipe: TrainRecipe) -> None:
    """An error where the losses are an embedder's, and the model is a reranker.

    Raises:
        InputError: it is one; the message has the losses of rerankers.
    """
    source = find(recipe.model, revision=recipe.revision)
    if not is_reranker(source):
        return
    try:
        open_checkpoint(source, pooling=recipe.pooling)  # one named as a reranker may have no classifier
    except CheckpointError as error:
        raise InputError(
            f"{recipe.model} is a reranker, and {recipe.losses[0].name} is a loss of embedders. Take a loss "
            f"of rerankers ({', '.join(RERANKER_LOSSES.names())}), or another model."
        ) from error


def _is_of_reranker(recipe: LossRecipe) -> bool:
    # By the prefix, too: a misspelt one is answered with the nearest of its kind.
    return recipe.name in RERANKER_LOSSES or recipe.name.startswith("reranker")
