"""The weighted sum of losses that a run minimises, and what its data must hold for them."""

from __future__ import annotations

__all__ = ["Objective", "Term"]

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tercet.errors import InputError
from tercet.training.losses import Loss
from tercet.training.outputs import OUTPUTS, Outputs
from tercet.training.targets import LossValue, Targets


@dataclass(frozen=True, slots=True)
class Term:
    """A loss with its name for the report and its factor."""

    name: str
    loss: Loss
    weight: float = 1.0


class Objective:
    """The sum of weight x loss; called like a loss. Parts are `term/part`, and `term` for its value."""

    def __init__(self, terms: Sequence[Term]) -> None:
        names = [term.name for term in terms]
        if not terms:
            raise InputError("An objective needs at least one loss.")
        if len(set(names)) < len(names):
            raise InputError(f"Two terms of the objective have one name: {names}. Name each its own.")
        self.terms = tuple(terms)

    @property
    def heads(self) -> tuple[str, ...]:
        """Outputs that some term compares, in the order of `OUTPUTS`."""
        wanted = {head for term in self.terms for head in term.loss.heads}
        return tuple(name for name in OUTPUTS if name in wanted)

    def __call__(self, queries: Outputs, passages: Outputs, targets: Targets) -> LossValue:
        """The objective of a batch.

        Raises:
            InputError: the batch has scores or labels that no term learns from, or a term misses something.
            NonFiniteError: a term is not finite.
        """
        self._check_used(targets)
        total = torch.zeros((), device=queries.tensors()[0].device)
        parts: dict[str, Tensor] = {}
        for term in self.terms:
            found = term.loss(queries, passages, targets)
            total = total + term.weight * found.value
            parts[term.name] = found.value.detach()
            parts.update({f"{term.name}/{name}": part for name, part in found.parts.items()})
        return LossValue(total, parts)

    def _check_used(self, targets: Targets) -> None:
        used = {kind for term in self.terms for kind in term.loss.uses}
        names = ", ".join(term.name for term in self.terms)
        # logits have no heads
        graded, scored = ("cosent", "kl_div or margin_mse")
        if not self.heads:
            graded, scored = ("reranker_binary", "reranker_distillation")
        if targets.labels is not None and "labels" not in used:
            raise InputError(
                f"The batch has labels, and none of its losses ({names}) learns from them. Add one that "
                f"does, such as {graded}, or leave the labels out."
            )
        if targets.scores is not None and "scores" not in used:
            raise InputError(
                f"The batch has a teacher's scores, and none of its losses ({names}) learns from them. Add "
                f"one that does, such as {scored}, or leave the scores out."
            )
