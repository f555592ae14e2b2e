"""The changes that matter most, all or nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from tercet.merging.method import Chunk, OnThreshold, Pass, Steps, Task, last_dimension
from tercet.merging.methods import merge_method
from tercet.merging.selection import kth_largest

_FLOOR = 1e-8


@merge_method("arcee_fusion", inputs=(1, 1), width=last_dimension)
def arcee_fusion(task: Task) -> Steps:
    """The base, with those changes whose importance is an outlier: beyond median + 1.5 quartile distances.

    Importance is the size of a change times the divergence of the softmax of its row (Arcee, 2024). Quartiles
    are exact at any size: mergekit draws a sample of larger tensors.
    """
    last = task.numbers - 1
    # of the ascending order, as the k-th largest
    ranks = [last // 4, last // 2, 3 * last // 4]
    quartiles = yield from kth_largest(
        lambda chunk: [_importance(chunk)], [(0, task.numbers - rank) for rank in ranks], task.numbers
    )
    low, median, high = (one.value for one in quartiles)
    threshold = median + 1.5 * (high - low)
    # an importance of zero is that of what did not change
    on = (yield Pass(lambda chunk: int((_importance(chunk) == threshold).sum()))) if threshold else 0
    yield OnThreshold(on)

    def apply(chunk: Chunk) -> Tensor:
        assert chunk.base is not None
        return torch.where(_importance(chunk) >= threshold, chunk.inputs[0], chunk.base)

    return apply


def _importance(chunk: Chunk) -> Tensor:
    [delta] = chunk.deltas()
    assert chunk.base is not None
    of_input = chunk.inputs[0].double().softmax(-1) + _FLOOR
    of_base = chunk.base.double().softmax(-1) + _FLOOR
    # never below zero, which rounding could make it where both are alike
    divergence = (of_input * (of_input / of_base).log()).sum(-1, keepdim=True).clamp(min=0)
    return delta.abs() * divergence
