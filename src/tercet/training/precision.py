"""Which number format the encoder is trained in: as the recipe says, or as measured on this machine."""

from __future__ import annotations

__all__ = ["Measurement", "Precision", "choose", "measure"]

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from tercet.engines.probing import time_interleaved

Precision: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]

NARROW: dict[str, torch.dtype | None] = {
    "float32": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# (tokens, hidden, intermediate): a part of a batch; a GPU is only busy with more of it.
_CPU_SHAPE, _GPU_SHAPE = (512, 384, 1536), (4096, 1024, 4096)
# Less of a gain is not worth 16 bits of every product, and may be noise.
_MOST_SECONDS = 0.8
# bfloat16 has 8 bits: gradients of two layers were 0.004 of their length off where it computed rightly.
_MOST_ERROR = 0.02


@dataclass(frozen=True, slots=True)
class Measurement:
    """What bfloat16 does with a feed-forward block, its gradients with it, against float32.

    Attributes:
        relative_seconds: time against float32's.
        error: length of the gradients' difference against that of float32's gradients.
        quiet: False where other processes disturbed the timing.
        failure: torch's message where it does not run; the rest means nothing then.
    """

    relative_seconds: float
    error: float
    quiet: bool
    failure: str | None = None


def choose(
    asked: Precision,
    device: torch.device,
    *,
    measured: Callable[[torch.device], Measurement] | None = None,
) -> tuple[str, str]:
    """The name of a format, and why it is taken.

    Args:
        asked: as the recipe has it; "auto" is bfloat16 where that was measured to be faster and right.
        device: on which it is trained.
        measured: what measures; `measure` where None.
    """
    if asked != "auto":
        return asked, f"{asked}, as the recipe says"
    where = "the CPU" if device.type == "cpu" else "the GPU"
    found = (measured or measure)(device)
    if found.failure is not None:
        return "float32", f"float32: bfloat16 does not run on {where} ({found.failure})"
    took = f"a step of bfloat16 took {found.relative_seconds:.2f} of float32's time on {where}"
    if not found.quiet:
        return (
            "float32",
            f"float32: {took}, while other processes disturbed the timing, which decides nothing",
        )
    if found.relative_seconds > _MOST_SECONDS:
        return "float32", f"float32: {took}, which is not worth the bits"
    if not found.error <= _MOST_ERROR:
        return "float32", f"float32: gradients in bfloat16 were {found.error:.2g} off on {where}"
    return (
        "bfloat16",
        f"bfloat16: {took}, gradients {found.error:.2g} off; weights, heads and losses in float32",
    )


def measure(device: torch.device) -> Measurement:
    """Times a feed-forward block and its gradients in bfloat16 and in float32, in turns; about a second."""
    tokens, hidden, inner = _CPU_SHAPE if device.type == "cpu" else _GPU_SHAPE
    generator = torch.Generator().manual_seed(0)

    def drawn(rows: int, columns: int) -> Tensor:
        # Products of about one: sums of many bfloat16 numbers are what is judged, not their range.
        values = torch.randn(rows, columns, generator=generator) / columns**0.5
        found: Tensor = values.to(device).requires_grad_()
        return found

    x, up, down = drawn(tokens, hidden), drawn(inner, hidden), drawn(hidden, inner)

    def gradients(narrow: torch.dtype | None) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            with torch.autocast(device.type, narrow, enabled=narrow is not None):
                out = functional.linear(functional.gelu(functional.linear(x, up)), down)
            return torch.autograd.grad(out.float().square().sum(), (x, up, down))

    try:
        narrow = gradients(torch.bfloat16)
    except RuntimeError as error:
        return Measurement(float("inf"), float("inf"), True, str(error).splitlines()[0])
    wide = gradients(None)
    distance = max(
        float((one - other).norm() / other.norm()) for one, other in zip(narrow, wide, strict=True)
    )
    synchronise = partial(torch.cuda.synchronize, device) if device.type == "cuda" else (lambda: None)
    seconds, quiet = time_interleaved(
        {"float32": partial(gradients, None), "bfloat16": partial(gradients, torch.bfloat16)},
        base=["float32"],
        synchronise=synchronise,
    )
    return Measurement(seconds["bfloat16"] / seconds["float32"], distance, quiet)
