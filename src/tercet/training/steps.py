"""What is needed to take a step: the optimizer, its schedule, and which losses learn from which file."""

from __future__ import annotations

__all__ = ["learning_rates", "make_optimizer", "terms_of"]

from collections.abc import Callable, Sequence
from math import cos, pi

import torch
from torch import nn

from tercet.errors import InputError
from tercet.training.cross_encoder import TrainableReranker
from tercet.training.data import Source
from tercet.training.logits import is_of_rerankers, make_term
from tercet.training.losses import WITH_OR_WITHOUT_SCORES
from tercet.training.model import Trainable
from tercet.training.objective import Objective, Term
from tercet.training.recipe import LossRecipe, OptimizerRecipe

# Of what is trained (an embedder, a reranker) and by what (no labels, labels): the usual loss.
_USUAL = (("info_nce", "cosent"), ("reranker_cross_entropy", "reranker_binary"))


def make_optimizer(model: Trainable | TrainableReranker, recipe: OptimizerRecipe) -> torch.optim.AdamW:
    """AdamW over what learns: matrices decay, biases and norms do not; heads may have a rate of their own.

    Raises:
        InputError: nothing learns.
    """
    heads = {id(parameter) for parameter in model.head_parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in heads, parameter.ndim > 1), []).append(parameter)
    if not groups:
        raise InputError(
            "Nothing learns: the body is frozen, and the losses compare outputs without a head of their own. "
            "Set freeze_body: false, or add a loss of the sparse or multivector head."
        )
    rate = recipe.learning_rate
    return torch.optim.AdamW(
        [
            {
                "params": members,
                "lr": (recipe.head_learning_rate or rate) if head else rate,
                "weight_decay": recipe.weight_decay if matrix else 0.0,
            }
            for (head, matrix), members in sorted(groups.items(), key=lambda group: group[0])
        ],
        # Torch's other ways hold the roots of all second moments at a time on a GPU, and those of the largest
        # table twice on a CPU.
        fused=True,
    )


def learning_rates(recipe: OptimizerRecipe, steps: int) -> Callable[[int], float]:
    """The part of the learning rate at each step, counted from 0."""
    warm = round(recipe.warmup * steps)

    def part(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        done = (step - warm) / max(1, steps - warm)
        if recipe.schedule == "linear":
            return max(0.0, 1.0 - done)
        return 0.5 * (1.0 + cos(pi * min(1.0, done))) if recipe.schedule == "cosine" else 1.0

    return part


def terms_of(losses: Sequence[LossRecipe], sources: Sequence[Source]) -> list[Objective]:
    """The objective of each source: pairs with a label learn by losses of labels, all others by the rest.

    Raises:
        InputError: a source without a loss, a loss without a source, or a loss that misses what it learns
        from.
    """
    reranks = is_of_rerankers(losses)
    made = [make_term(one) for one in losses]
    names: list[str] = []
    for number, one in enumerate(losses):
        name = one.name if one.head is None else f"{one.head}/{one.name}"
        names.append(name if name not in names else f"{name}/{number}")
    used: set[int] = set()
    objectives = []
    for source in sources:
        own = [number for number, loss in enumerate(made) if ("labels" in loss.uses) is source.labelled]
        if not own:
            what = (
                "labels, and no loss learns from them"
                if source.labelled
                else "no label, and every loss needs one"
            )
            raise InputError(
                f"{source.recipe.path} has {what}. Add a loss that does, such as "
                f"{_USUAL[reranks][source.labelled]}, or leave the file out."
            )
        if reranks and not source.labelled and source.group_size < 2:
            raise InputError(
                f"{source.recipe.path}: group_size is 1, which leaves a positive nothing to be told from. "
                "Give negatives (tercet mine finds them), or labels and reranker_binary."
            )
        for number in own:
            name = losses[number].name
            if "scores" in made[number].uses and (source.some_scored or name not in WITH_OR_WITHOUT_SCORES):
                source.require_scores(name)
        used.update(own)
        objectives.append(Objective([Term(names[n], made[n], losses[n].weight) for n in own]))
    for number, one in enumerate(losses):
        if number not in used:
            raise InputError(
                f"{one.name} learns from labels, and no file of `data` has any. Add one, or leave it out."
            )
    return objectives
