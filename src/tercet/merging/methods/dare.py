"""Task vectors with entries dropped at random."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tercet.merging.method import Chunk, Steps, Task
from tercet.merging.methods import merge_method
from tercet.merging.randomness import uniform
from tercet.merging.task_vectors import arithmetic, parameters

_PARAMETERS = parameters(normalize=False, rescale=True)


@merge_method("dare_linear", parameters=_PARAMETERS)
def dare_linear(task: Task) -> Steps:
    """Task arithmetic on entries kept with the probability `density` (DARE: Yu et al. 2024).

    What is left is scaled to the sum of magnitudes that it had, as mergekit does; the paper divides by
    density.
    """
    return _dare(task, consensus=False)


@merge_method("dare_ties", parameters=_PARAMETERS)
def dare_ties(task: Task) -> Steps:
    """As dare_linear, and the entries must agree in sign, as in TIES."""
    return _dare(task, consensus=True)


def _dare(task: Task, *, consensus: bool) -> Steps:
    densities = [float(density) for density in task.values("density")]
    seeds = [task.seed_of(place) for place in range(len(densities))]

    def masks(chunk: Chunk, deltas: Sequence[Tensor]) -> list[Tensor | None]:
        return [
            None if density >= 1 else uniform(seed, chunk.first, tuple(delta.shape)) < density
            for delta, density, seed in zip(deltas, densities, seeds, strict=True)
        ]

    return arithmetic(task, masks, consensus=consensus)
