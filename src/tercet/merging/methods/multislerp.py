"""Interpolation of several models on a sphere, around their weighted mean."""

from __future__ import annotations

import torch
from torch import Tensor

from tercet.errors import InputError
from tercet.merging.geometry import combination, products
from tercet.merging.method import Chunk, Parameter, Steps, Task
from tercet.merging.methods import merge_method


@merge_method(
    "multislerp",
    base="optional",
    parameters=(
        Parameter("weight", float, per_input=True),
        Parameter("normalize_weights", bool, True),
        Parameter("eps", float, 1e-8),
    ),
)
def multislerp(task: Task) -> Steps:
    """The direction of the weighted mean of unit tensors, with the weighted mean of their norms.

    mergekit projects on the tangent space of that mean, adds up there and projects back. The sum there is
    zero but for rounding, since the mean is the weighted one; so what is left is computed. With a base it is
    done to task vectors; a single model comes back unchanged.
    """
    if len(task.of_inputs) == 1:
        return lambda chunk: chunk.inputs[0]
    weights = torch.tensor([float(weight) for weight in task.values("weight")], dtype=torch.float64)
    if task.settings["normalize_weights"]:
        if float(weights.sum()) == 0:
            raise InputError(
                f"{task.name}: the weights add up to zero. Change them, or set normalize_weights: false."
            )
        weights = weights / weights.sum()
    eps = float(task.settings["eps"])
    gram = yield products(_vectors)
    norms = gram.diagonal().clamp(min=0).sqrt()
    shares = weights / (norms + eps)
    mean = float((shares @ gram @ shares).clamp(min=0).sqrt())
    if mean >= eps:
        coefficients = (shares / mean * (norms @ weights)).tolist()
    elif len(weights) == 2:
        coefficients = weights.tolist()
    else:
        raise InputError(
            f"{task.name}: the weighted directions cancel out, so there is no mean direction. "
            "Change the weights."
        )

    def apply(chunk: Chunk) -> Tensor:
        mixed = combination(coefficients, _vectors(chunk))
        if chunk.base is not None:
            mixed += chunk.base
        return mixed.to(chunk.inputs[0].dtype)

    return apply


def _vectors(chunk: Chunk) -> tuple[Tensor, ...]:
    return chunk.inputs if chunk.base is None else tuple(chunk.deltas())
