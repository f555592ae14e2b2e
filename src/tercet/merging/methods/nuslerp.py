"""Spherical interpolation of two models or of their task vectors, whole, by rows or by columns."""

from __future__ import annotations

import torch
from torch import Tensor

from tercet.merging.method import Chunk, Parameter, Pass, Steps, Task, last_dimension
from tercet.merging.methods import merge_method

_SMALLEST_NORM = 1e-7
# 1 - cos² up to which two vectors are one line.
_PARALLEL = 1e-16


def _width(task: Task) -> int:
    if task.settings["nuslerp_flatten"]:
        return 0
    if task.settings["nuslerp_row_wise"] and len(task.shape) > 1:
        return max(1, task.numbers // max(1, task.shape[0]))
    return last_dimension(task)


@merge_method(
    "nuslerp",
    base="optional",
    inputs=(2, 2),
    width=_width,
    parameters=(
        Parameter("weight", float, per_input=True),
        Parameter("nuslerp_flatten", bool, True),
        Parameter("nuslerp_row_wise", bool, False),
    ),
)
def nuslerp(task: Task) -> Steps:
    """The point on the arc that the weights say; with a base, of what the two models add to it.

    With nuslerp_flatten: false each row is a vector of its own, with nuslerp_row_wise: true each column,
    which is what mergekit's name means.
    """
    first, second = (float(weight) for weight in task.values("weight"))
    total = first + second
    t = 0.5 if abs(total) < 1e-6 else second / total
    flatten = bool(task.settings["nuslerp_flatten"])
    columns = bool(task.settings["nuslerp_row_wise"]) and len(task.shape) > 1
    found: Tensor | None = None
    if flatten or columns:
        found = yield Pass(lambda chunk: _sums(*_ends(chunk), None if flatten else 0))

    def apply(chunk: Chunk) -> Tensor:
        left, right = _ends(chunk)
        of_left, of_right = _coefficients(_sums(left, right, -1) if found is None else found, t)
        mixed = of_left * left + of_right * right
        if chunk.base is not None:
            mixed += chunk.base.double()
        return mixed.to(chunk.inputs[0].dtype)

    return apply


def _ends(chunk: Chunk) -> tuple[Tensor, Tensor]:
    if chunk.base is not None:
        left, right = chunk.deltas()
        return left, right
    return chunk.inputs[0].double(), chunk.inputs[1].double()


def _sums(left: Tensor, right: Tensor, dim: int | None) -> Tensor:
    """The squares of both and their product, summed over all, over rows (-1) or over columns (0)."""
    return torch.stack(
        [
            part.sum() if dim is None else part.sum(dim, keepdim=True)
            for part in (left**2, right**2, left * right)
        ]
    )


def _coefficients(sums: Tensor, t: float) -> tuple[Tensor, Tensor]:
    norms = sums[:2].clamp(min=0).sqrt().clamp(min=_SMALLEST_NORM)
    cosine = (sums[2] / norms[0] / norms[1]).clamp(-1, 1)
    line = 1 - cosine**2 <= _PARALLEL
    angle = torch.acos(torch.where(line, 0.0, cosine))
    sine = torch.sin(angle)
    return (
        torch.where(line, 1 - t, torch.sin((1 - t) * angle) / sine),
        torch.where(line, t, torch.sin(t * angle) / sine),
    )
