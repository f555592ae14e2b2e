"""The mean of the models, each number weighted by how much it matters to its model."""

from __future__ import annotations

import torch
from torch import Tensor

from tercet.errors import InputError
from tercet.merging.averaging import checked_weights, weighted_mean
from tercet.merging.method import Chunk, Parameter, Steps, Task
from tercet.merging.methods import merge_method


@merge_method(
    "fisher",
    base="input",
    statistics="fisher",
    parameters=(
        Parameter("statistics", str, None, per_input=True),
        Parameter("weight", float, 1.0, per_input=True),
        Parameter("floor", float, 1e-6),
        Parameter("normalize", bool, False),
    ),
)
def fisher(task: Task) -> Steps:
    """The mean weighted by each model's diagonal Fisher information F (Matena & Raffel 2022).

    The sum of w F x by the sum of w F, each F raised to at least `floor` times the mean of the models' means
    over all their numbers: so what matters to no model comes out as the weighted mean. With `normalize` each
    model's F is divided by its mean first.
    """
    weights = checked_weights(task)
    floor = float(task.settings["floor"])
    if not floor >= 0:
        raise InputError(f"{task.name}: floor is {floor:g}, expected a number from 0.")
    if not task.statistics:
        return lambda chunk: weighted_mean(weights, chunk.inputs)
    means = [one.mean for one in task.statistics]
    # of a model to which no number matters, every F is 0 whatever it is divided by
    scales = [1 / mean if task.settings["normalize"] and mean else 1.0 for mean in means]
    level = floor * sum(mean * scale for mean, scale in zip(means, scales, strict=True)) / len(means)

    def apply(chunk: Chunk) -> Tensor:
        first = chunk.inputs[0]
        made = torch.zeros(first.shape, dtype=torch.float64)
        total = torch.zeros_like(made)
        for weight, scale, given, one in zip(weights, scales, chunk.inputs, task.statistics, strict=True):
            found = one.part(chunk.first, chunk.first + first.numel()).view(first.shape)
            share = (found * scale).clamp_(min=level).mul_(weight)
            made.addcmul_(share, given.double())
            total += share
        # with a floor of 0, and where a factor of 0 leaves out the only model that has any
        nothing = total == 0
        if nothing.any():
            made = torch.where(nothing, weighted_mean(weights, chunk.inputs).double(), made / total)
        else:
            made /= total
        return made.to(first.dtype)

    return apply
    yield
