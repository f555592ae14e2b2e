"""What follows attention in an encoder's layer, done natively in one."""

from __future__ import annotations

__all__ = ["Norm", "layer_end"]

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from tercet.errors import InputError
from tercet.kernels.arguments import check_bias, check_rows, check_status, pointer, result
from tercet.kernels.matmul import SCHEMES, library_for
from tercet.kernels.native import FLOAT_LEVELS, LEVELS, bound
from tercet.kernels.packed_weight import PackedWeight

_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
# x, its step, rows, width, between; out, its bias, up, its bias, down, its bias; two norms: weight, bias,
# epsilon; residual, its step; y, its step; scheme, threads, level, level of the norms
_SIGNATURE = (
    *(_POINTER, _LONG, _LONG, _LONG, _LONG),
    *(_POINTER, _POINTER) * 3,
    *(_POINTER, _POINTER, ctypes.c_float) * 2,
    *(_POINTER, _LONG, _POINTER, _LONG),
    *(_INT, _INT, _INT, _INT),
)


class Norm(NamedTuple):
    """Layer normalisation (Ba, Kiros & Hinton 2016): weight and bias (width,) float32, epsilon."""

    weight: Tensor
    bias: Tensor
    epsilon: float


def layer_end(
    x: Tensor,
    weights: tuple[PackedWeight, PackedWeight, PackedWeight],
    biases: tuple[Tensor | None, Tensor | None, Tensor | None],
    norms: tuple[Norm, Norm],
    *,
    residual: Tensor,
) -> Tensor:
    """What follows attention in an encoder's layer with norms behind, a block of rows through all of it.

    With h = norm(x out' + bias + residual) it is norm(gelu(h up' + bias) down' + bias + h). The bits are
    those of `linear`, `layer_norm`, `feed_forward` and `layer_norm`, one after the other.

    Args:
        x: (rows, width) float32 on the CPU; the rows may lie apart.
        weights: of out, up and down, of one scheme.
        biases: the same.
        norms: behind out, and behind down.
        residual: (rows, width) float32; the rows may lie apart.

    Returns:
        (rows, width) float32.

    Raises:
        InputError: shapes or dtypes do not fit, or the weights are of more than one scheme.
        PrecisionError: a weight was packed for a level that does not run here.
    """
    out, up, down = weights
    found = library_for(out)
    width, between = out.in_features, up.out_features
    expected = ((width, width), (width, between), (between, width))
    kinds = {(weight.scheme, weight.level) for weight in weights}
    shapes = tuple((weight.in_features, weight.out_features) for weight in weights)
    if len(kinds) > 1 or shapes != expected:
        raise InputError(f"The weights of a layer do not fit together: {out}, {up} and {down}.")
    check_rows("x", x, (None, width))
    rows = len(x)
    for name, bias, size in zip(("out", "up", "down"), biases, (width, between, width), strict=True):
        check_bias(f"the bias of {name}", bias, size)
    for norm in norms:
        check_bias("the weight of a norm", norm.weight, width)
        check_bias("the bias of a norm", norm.bias, width)
    y = result(rows, width, out.scheme, residual, None)
    (first, second), (out_bias, up_bias, down_bias) = norms, map(pointer, biases)
    status = bound(found, "tercet_layer_end", _SIGNATURE)(
        x.data_ptr(), x.stride(0), rows, width, between,
        out.data.data_ptr(), out_bias, up.data.data_ptr(), up_bias, down.data.data_ptr(), down_bias,
        first.weight.data_ptr(), first.bias.data_ptr(), first.epsilon,
        second.weight.data_ptr(), second.bias.data_ptr(), second.epsilon,
        residual.data_ptr(), residual.stride(0), y.data_ptr(), y.stride(0),
        SCHEMES[out.scheme], torch.get_num_threads(), LEVELS[out.level], found.best(*FLOAT_LEVELS),
    )  # fmt: skip
    check_status(status)
    return y
