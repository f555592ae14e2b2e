"""Spherical interpolation of two models."""

from __future__ import annotations

from torch import Tensor

from tercet.merging.geometry import combination, products, slerp_coefficients
from tercet.merging.method import Chunk, Parameter, Steps, Task
from tercet.merging.methods import merge_method

# Beyond this cosine the arc is a line.
_PARALLEL = 0.9995
_SMALLEST_NORM = 1e-8


@merge_method("slerp", inputs=(1, 1), parameters=(Parameter("t", float),))
def slerp(task: Task) -> Steps:
    """The point at t on the arc from the base (t = 0) to the other model (Shoemake 1985)."""
    t = float(task.settings["t"])
    gram = yield products(_ends)
    first, second = (norm if norm > _SMALLEST_NORM else 1.0 for norm in gram.diagonal().sqrt().tolist())
    cosine = max(-1.0, min(1.0, float(gram[0, 1]) / first / second))
    coefficients = (1 - t, t) if abs(cosine) > _PARALLEL else slerp_coefficients(cosine, t)
    return lambda chunk: combination(coefficients, _ends(chunk))


def _ends(chunk: Chunk) -> tuple[Tensor, Tensor]:
    assert chunk.base is not None
    return chunk.base, chunk.inputs[0]
