"""Task vectors with entries dropped at random, small ones more often."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tercet.errors import InputError
from tercet.merging.method import Chunk, Parameter, Steps, Task, last_dimension
from tercet.merging.methods import merge_method
from tercet.merging.randomness import uniform
from tercet.merging.task_vectors import arithmetic, parameters

_EPSILON = Parameter("epsilon", float, 0.15, per_input=True, least=0)


@merge_method(
    "della", width=last_dimension, parameters=parameters(normalize=True, rescale=True, more=(_EPSILON,))
)
def della(task: Task) -> Steps:
    """As dare_ties, but the probability grows with the rank of an entry in its row (Deep et al. 2024).

    It goes from density - epsilon to density + epsilon; in a row of one entry it is density.
    """
    return _della(task, consensus=True)


@merge_method(
    "della_linear",
    width=last_dimension,
    parameters=parameters(normalize=False, rescale=True, more=(_EPSILON,)),
)
def della_linear(task: Task) -> Steps:
    """As della, without the agreement of signs."""
    return _della(task, consensus=False)


def _della(task: Task, *, consensus: bool) -> Steps:
    densities = [float(density) for density in task.values("density")]
    epsilons = [float(epsilon) for epsilon in task.values("epsilon")]
    for density, epsilon in zip(densities, epsilons, strict=True):
        if 0 < density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
            raise InputError(
                f"{task.name}: density {density:g} and epsilon {epsilon:g} give probabilities from "
                f"{density - epsilon:g} to {density + epsilon:g}, which must lie between 0 and 1. "
                "Choose a smaller epsilon."
            )
    seeds = [task.seed_of(place) for place in range(len(densities))]

    def masks(chunk: Chunk, deltas: Sequence[Tensor]) -> list[Tensor | None]:
        made: list[Tensor | None] = []
        for delta, density, epsilon, seed in zip(deltas, densities, epsilons, seeds, strict=True):
            if density >= 1:
                made.append(None)
            elif density <= 0:
                made.append(torch.zeros_like(delta, dtype=torch.bool))
            else:
                drawn = uniform(seed, chunk.first, tuple(delta.shape))
                made.append(drawn < density - epsilon + 2 * epsilon * _ranks(delta.abs()))
        return made

    return arithmetic(task, masks, consensus=consensus)


def _ranks(magnitudes: Tensor) -> Tensor:
    """Of each entry its rank in its row, from 0 to 1; of equal ones the first is the smaller."""
    width = magnitudes.shape[-1]
    if width == 1:
        return torch.full_like(magnitudes, 0.5)
    order = magnitudes.argsort(dim=-1, stable=True)
    ranks = torch.empty_like(order).scatter_(-1, order, torch.arange(width).expand_as(order))
    return ranks.double() / (width - 1)
