"""The mean of the models, moved towards the base as far as they disagree."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from tercet.merging.method import Chunk, Parameter, Pass, Steps, Task, last_dimension
from tercet.merging.methods import merge_method

# Smallest product of two norms, and smallest divisor: below, the base stays.
_SMALLEST = 1e-6


def _width(task: Task) -> int:
    return last_dimension(task) if task.settings["filter_wise"] else 0


@merge_method(
    "model_stock", inputs=(2, None), width=_width, parameters=(Parameter("filter_wise", bool, False),)
)
def model_stock(task: Task) -> Steps:
    """Between base and mean, by the mean cosine of what the models add to the base (Jang et al. 2024).

    With filter_wise each row has its own part.
    """
    count = len(task.of_inputs)
    share: Tensor | None = None
    if not task.settings["filter_wise"]:
        found = yield Pass(lambda chunk: _sums(chunk, None))
        share = _share(found, count)

    def apply(chunk: Chunk) -> Tensor:
        part = _share(_sums(chunk, -1), count) if share is None else share
        deltas = chunk.deltas()
        mixed = deltas[0].clone()
        for delta in deltas[1:]:
            mixed += delta
        assert chunk.base is not None
        return (chunk.base.double() + part / count * mixed).to(chunk.base.dtype)

    return apply


def _sums(chunk: Chunk, dim: int | None) -> Tensor:
    """The squares of all task vectors, then the products of all pairs, summed over all or over rows."""
    deltas = chunk.deltas()
    parts = [*(delta**2 for delta in deltas), *(a * b for a, b in combinations(deltas, 2))]
    return torch.stack([part.sum() if dim is None else part.sum(dim, keepdim=True) for part in parts])


def _share(sums: Tensor, count: int) -> Tensor:
    """How far to go from the base to the mean."""
    norms = sums[:count].sqrt()
    lengths = torch.stack([a * b for a, b in combinations(norms, 2)]).clamp(min=_SMALLEST)
    cosine = (sums[count:] / lengths).clamp(-1, 1).mean(0)
    divisor = 1 + (count - 1) * cosine
    nothing = divisor.abs() < _SMALLEST
    return torch.where(nothing, 0.0, count * cosine / torch.where(nothing, 1.0, divisor))
