"""Native layer normalisation."""

from __future__ import annotations

__all__ = ["available", "layer_norm"]

import ctypes

import torch
from torch import Tensor

from tercet.kernels.memory import empty
from tercet.kernels.native import FLOAT_LEVELS, LEVELS, bound, library

_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
# x, its step, rows, width; weight, bias, epsilon; y, its step; threads, level
_SIGNATURE = (
    *(_POINTER, _LONG, _LONG, _LONG),
    *(_POINTER, _POINTER, ctypes.c_float),
    *(_POINTER, _LONG, _INT, _INT),
)


def available(dtype: torch.dtype) -> bool:
    """Whether `layer_norm` can be called here for a dtype."""
    return dtype is torch.float32 and library() is not None


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, *, level: str | None = None
) -> Tensor:
    """Rows of mean 0 and variance 1, times `weight`, plus `bias` (Ba, Kiros & Hinton 2016).

    Args:
        x: (rows, width) float32 on the CPU, the columns of a row side by side.
        weight, bias: (width,) float32, contiguous.
        epsilon: added to the variance.
        level: the instruction level; the best by default.

    Returns:
        (rows, width) float32.
    """
    found = library()
    assert found is not None
    rows, width = x.shape
    y = empty(rows, width)
    number = found.best(*FLOAT_LEVELS) if level is None else LEVELS[level]
    status = bound(found, "tercet_layer_norm", _SIGNATURE)(
        x.data_ptr(), x.stride(0), rows, width, weight.data_ptr(), bias.data_ptr(), epsilon,
        y.data_ptr(), width, torch.get_num_threads(), number,
    )  # fmt: skip
    assert status == 0
    return y
