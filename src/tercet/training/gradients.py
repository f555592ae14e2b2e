"""The gradients of one batch, in the precision of the run and within its budget of tokens."""

from __future__ import annotations

__all__ = ["Gradients"]

from collections.abc import Sequence

import torch
from torch import Tensor

from tercet.batch import Batch
from tercet.text.pack import pack
from tercet.training.course import Course
from tercet.training.data import Source, TrainingBatch, make_batch
from tercet.training.data.order import Chosen
from tercet.training.gradcache import backward_in_parts
from tercet.training.objective import Objective
from tercet.training.outputs import Outputs
from tercet.training.processes import Place
from tercet.training.recipe import TrainRecipe
from tercet.training.reranker_subject import RerankerSubject
from tercet.training.sharding import Replicated, Sharded
from tercet.training.subject import EmbeddingSubject
from tercet.training.targets import LossValue, Targets


class Gradients:
    """Adds the gradients of batches to the weights'.

    Args:
        recipe: the run's.
        subject: what is trained.
        held: its model and optimizer.
        where: the run's place.
        course: where batches come from.
    """

    def __init__(
        self,
        recipe: TrainRecipe,
        subject: EmbeddingSubject | RerankerSubject,
        held: Replicated | Sharded,
        where: Place,
        course: Course,
    ) -> None:
        self.recipe = recipe
        self.subject = subject
        self.held = held
        self.where = where
        self.course = course
        self.accelerator = where.accelerator

    def add(self, chosen: Chosen, number: int, step: int) -> tuple[LossValue, int]:
        """The loss of a batch, its gradients added to the weights'; and how many tokens it had.

        `number` counts the run's batches, `step` its steps, both from 0.
        """
        # By the number of the batch: dropout of a run that goes on draws what that of an unbroken one would.
        torch.manual_seed(hash((self.recipe.seed, number, self.accelerator.process_index)) & (2**63 - 1))
        course = self.course
        batch = make_batch(course.sources, chosen, self.subject.prompts)
        source = course.sources[int(chosen.sources[0])]
        objective = course.objectives[int(chosen.sources[0])]
        sides = [side.to(self.accelerator.device) for side in self.subject.sides(batch)]
        targets = self._targets(batch, source, objective, step).to(self.accelerator.device)
        scale = 1.0 / self.recipe.batch.accumulate

        def backward(value: Tensor) -> None:
            self.accelerator.backward(self.where.scaler.scale(value * scale))

        budget = self.recipe.batch.forward_tokens
        parts = 0 if budget is None else sum(len(list(pack(side.lengths, budget))) for side in sides)
        most, heads = self.held.agreed(parts, objective.heads)

        def encode(part: Batch) -> Outputs:
            device_type = self.accelerator.device.type
            narrow = self.where.narrow
            with torch.autocast(device_type, narrow, enabled=narrow is not None):
                return self.held.encode(part, heads)

        def compare(outputs: Sequence[Outputs]) -> LossValue:
            own = [one.only(objective.heads) for one in outputs] if heads != objective.heads else outputs
            return self.subject.loss(objective, own, targets)

        tokens = sum(side.num_tokens for side in sides)
        if budget is None:
            outputs = [encode(side) for side in sides]
            value = compare(outputs)
            unseen = [one.sum() for side in outputs for one in side.tensors() if heads != objective.heads]
            # A head that learns in another process has a gradient here, too: 0.
            backward(value.value + 0.0 * torch.stack(unseen).sum() if unseen else value.value)
            return LossValue(value.value.detach(), value.parts), tokens
        value = backward_in_parts(
            encode,
            sides,
            compare,
            token_budget=budget,
            backward=backward,
            without_sync=self.held.without_sync,
            idle=most - parts,
        )
        return value, tokens

    def _targets(self, batch: TrainingBatch, source: Source, objective: Objective, step: int) -> Targets:
        uses = {kind for term in objective.terms for kind in term.loss.uses}
        return Targets(
            scores=batch.teacher if "scores" in uses else None,
            labels=batch.labels if "labels" in uses else None,
            in_batch=source.recipe.in_batch_negatives,
            across_devices=self.recipe.batch.negatives_across_devices,
            allowed=batch.allowed,
            step=step,
        )
