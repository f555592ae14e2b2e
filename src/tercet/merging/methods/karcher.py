"""The mean of models on a sphere."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tercet.errors import InputError
from tercet.merging.geometry import combination, products, unit_products
from tercet.merging.method import Parameter, Steps, Task
from tercet.merging.methods import merge_method


@merge_method(
    "karcher", base="input", parameters=(Parameter("max_iter", int, 10), Parameter("tol", float, 1e-5))
)
def karcher(task: Task) -> Steps:
    """The Riemannian mean of the unit tensors (Karcher 1977), times the mean of their norms.

    Every step stays in the span of the models, so all are done on the matrix of their cosines.
    """
    if len(task.of_inputs) == 1:
        return lambda chunk: chunk.inputs[0]
    gram = yield products(lambda chunk: chunk.inputs)
    norms, cosines = unit_products(gram)
    tolerance = float(task.settings["tol"])
    valid = norms > tolerance
    coefficients = torch.zeros_like(norms)
    if valid.any():
        found = _mean(task, cosines[valid][:, valid], int(task.settings["max_iter"]), tolerance)
        coefficients[valid] = found / norms[valid] * norms.mean()
    shares = coefficients.tolist()
    return lambda chunk: combination(shares, chunk.inputs)


def _mean(task: Task, cosines: Tensor, max_iter: int, tolerance: float) -> Tensor:
    """(models,) what to multiply each unit tensor with."""
    count = len(cosines)
    mean = torch.full((count,), 1 / count, dtype=torch.float64)
    length = _length(mean, cosines)
    mean = torch.eye(count, dtype=torch.float64)[0] if length < tolerance else mean / length
    for _ in range(max_iter):
        tangent = torch.zeros_like(mean)
        for place, dot in enumerate((cosines @ mean).clamp(-1, 1).tolist()):
            angle = math.acos(dot)
            if angle <= tolerance:
                continue
            if math.pi - angle < 1e-7:
                raise InputError(
                    f"{task.name}: one model is the opposite of the mean of the others, so there is no "
                    "shortest way between them. Leave it out, or merge with linear."
                )
            factor = angle / math.sin(angle) / count
            tangent -= factor * dot * mean
            tangent[place] += factor
        length = _length(tangent, cosines)
        if length <= tolerance:
            break
        mean = math.cos(length) * mean + math.sin(length) * (tangent / length)
        mean = mean / (_length(mean, cosines) or 1.0)
    return mean


def _length(coefficients: Tensor, cosines: Tensor) -> float:
    return float((coefficients @ cosines @ coefficients).clamp(min=0).sqrt())
