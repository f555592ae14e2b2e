"""The entries in which models differ most, weighted by how much each model changed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tercet.merging.method import Chunk, OnThreshold, Parameter, Pass, Steps, Task
from tercet.merging.methods import merge_method
from tercet.merging.selection import largest

_SMALLEST = 1e-6


@merge_method(
    "sce",
    parameters=(
        Parameter("select_topk", float, 1.0, least=0, share=True),
        Parameter("int8_mask", bool, False),
    ),
)
def sce(task: Task) -> Steps:
    """Select, calculate, erase (Wan et al. 2024).

    The positions with the largest variance are kept, a part select_topk of those with any; each model weighs
    as much as its mean square there; entries against the sign of the sum are left out.
    """
    density = float(task.settings["select_topk"])
    count = len(task.of_inputs)
    selected = None
    kept = task.numbers
    if density < 1:
        varying = yield Pass(lambda chunk: int(_variance(chunk.inputs).count_nonzero()))
        kept = int(varying * density) if density > 0 else 0
        if kept:
            [selected] = yield from largest(
                lambda chunk: [_variance(chunk.inputs)], [(0, kept)], task.numbers
            )
            yield OnThreshold(selected.undecided)

    def task_vectors(chunk: Chunk) -> list[Tensor]:
        deltas = chunk.deltas()
        if selected is None:
            return deltas if kept else [torch.zeros_like(delta) for delta in deltas]
        mask = selected.mask(_variance(chunk.inputs), chunk.first)
        return [delta.masked_fill(~mask, 0.0) for delta in deltas]

    def squares(chunk: Chunk) -> Tensor:
        return torch.stack([delta.square().sum() for delta in task_vectors(chunk)])

    sums = (yield Pass(squares)) / task.numbers
    total = float(sums.sum())
    shares = [1 / count] * count if total < _SMALLEST else (sums / total).tolist()

    def apply(chunk: Chunk) -> Tensor:
        assert chunk.base is not None
        deltas = task_vectors(chunk)
        positive = torch.stack(deltas).sum(0) >= 0
        mixed, divisor = torch.zeros_like(deltas[0]), torch.zeros_like(deltas[0])
        for share, delta in zip(shares, deltas, strict=True):
            agrees = torch.where(positive, delta > 0, delta < 0)
            mixed += share * delta.masked_fill(~agrees, 0.0)
            divisor += share * agrees
        return (chunk.base.double() + mixed / divisor.clamp(min=_SMALLEST)).to(chunk.base.dtype)

    return apply


def _variance(inputs: Sequence[Tensor]) -> Tensor:
    """Of each position over the models: by differences of pairs, so that equal models have exactly none."""
    wide = [tensor.double() for tensor in inputs]
    total = torch.zeros_like(wide[0])
    for place, one in enumerate(wide):
        for other in wide[place + 1 :]:
            total += (one - other).square_()
    return total / len(wide) ** 2
