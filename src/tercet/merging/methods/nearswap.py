"""The other model where it is near the base."""

from __future__ import annotations

from torch import Tensor

from tercet.merging.method import Chunk, Parameter, Steps, Task
from tercet.merging.methods import merge_method

_SMALLEST = 1e-6


@merge_method("nearswap", inputs=(1, 1), parameters=(Parameter("t", float),))
def nearswap(task: Task) -> Steps:
    """Each number moved to the other model's by at most t (alchemonaut's QuartetAnemoi, 2024)."""
    t = float(task.settings["t"])

    def apply(chunk: Chunk) -> Tensor:
        assert chunk.base is not None
        [delta] = chunk.deltas()
        part = (t / delta.abs().clamp(min=_SMALLEST)).clamp(0, 1)
        return (chunk.base.double() + part * delta).to(chunk.base.dtype)

    return apply
    yield
