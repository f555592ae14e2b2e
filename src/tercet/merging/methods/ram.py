"""Changes that one model made kept whole, those of several averaged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tercet.merging.method import Apply, Chunk, Parameter, Pass, Steps, Task
from tercet.merging.methods import merge_method

_EPSILON = Parameter("epsilon", float, 1e-5)


@merge_method("ram", parameters=(_EPSILON,))
def ram(task: Task) -> Steps:
    """Changes beyond epsilon: of one model alone as they are, of several their mean (arXiv 2601.13572)."""
    return _ram(task, [1.0] * len(task.of_inputs))
    yield


@merge_method("ramplus_tl", parameters=(_EPSILON, Parameter("r", float, 0.1), Parameter("alpha", float, 0.2)))
def ramplus_tl(task: Task) -> Steps:
    """As ram; what one model alone changed grows by how much of its changes it shares, tensor by tensor."""
    epsilon, r, alpha = (float(task.settings[name]) for name in ("epsilon", "r", "alpha"))

    def counts(chunk: Chunk) -> Tensor:
        active, contributors = _active(chunk.deltas(), epsilon)
        shared = [(one & (contributors > 1)).sum() for one in active]
        alone = [(one & (contributors == 1)).sum() for one in active]
        return torch.stack([torch.stack(shared), torch.stack(alone)])

    shared, alone = (yield Pass(counts)).double()
    parts = (shared / alone.clamp(min=epsilon)).clamp(0, alpha)
    return _ram(task, (1 + r * parts).tolist())


def _ram(task: Task, factors: Sequence[float]) -> Apply:
    epsilon = float(task.settings["epsilon"])

    def apply(chunk: Chunk) -> Tensor:
        assert chunk.base is not None
        deltas = chunk.deltas()
        active, contributors = _active(deltas, epsilon)
        divisor = contributors.clamp(min=1).double()
        mixed = torch.zeros_like(deltas[0])
        for delta, one, factor in zip(deltas, active, factors, strict=True):
            scale = torch.where(contributors == 1, factor, 1 / divisor)
            mixed += (delta * scale).masked_fill_(~one, 0.0)
        return (chunk.base.double() + mixed).to(chunk.base.dtype)

    return apply


def _active(deltas: Sequence[Tensor], epsilon: float) -> tuple[list[Tensor], Tensor]:
    """Which entries each model changed, and how many did."""
    active = [delta.abs() > epsilon for delta in deltas]
    return active, torch.stack(active).sum(0)
