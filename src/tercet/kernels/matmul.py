"""Native products of activations with packed weights, in the schemes that a CPU is fast at."""

from __future__ import annotations

__all__ = ["LAYOUT", "SCHEMES", "PackedWeight", "available", "feed_forward", "library_for", "linear", "pack"]

import ctypes
import logging
from functools import cache

import torch
from torch import Tensor

from tercet.errors import InputError, PrecisionError, nearest
from tercet.kernels.arguments import check_bias, check_rows, check_status, pointer, result, shape
from tercet.kernels.float16_weight import float16_panels
from tercet.kernels.float32_weight import float32_panels
from tercet.kernels.int8_weight import quantised_panels
from tercet.kernels.native import FLOAT_LEVELS, LEVELS, Library, absence, bound, library
from tercet.kernels.packed_weight import LAYOUT, PackedWeight

logger = logging.getLogger(__name__)

_INT8_LEVELS = ("scalar", "avx2", "avx_vnni", "avx512_vnni", "amx_int8", "neon", "neon_dot")
# The instruction levels at which a scheme has a kernel of its own.
_LEVELS = {
    "float32": FLOAT_LEVELS,
    "float16": ("scalar", "avx512_fp16", "neon_fp16"),
    "int8": _INT8_LEVELS,
    "int8-fast": _INT8_LEVELS,
}
# A scheme's number in the C interface.
SCHEMES = {"int8-fast": 0, "int8": 1, "float32": 2, "float16": 3}
# Schemes whose scalar level imitates instructions that a processor has not: to compare with, never to use.
_IMITATED = frozenset({"float16"})
# Levels that no machine at hand could run: tried here before they are trusted.
_UNTRIED = frozenset({"amx_int8", "avx512_fp16"})
_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
# x, its step, rows; weight, in, out, bias, gelu; residual, its step; y, its step; scheme, threads, level
_LINEAR = (
    *(_POINTER, _LONG, _LONG),
    *(_POINTER, _LONG, _LONG, _POINTER, _INT),
    *(_POINTER, _LONG, _POINTER, _LONG),
    *(_INT, _INT, _INT),
)
# x, its step, rows; up, its bias, down, its bias, in, between, out; residual, its step; y, its step; as above
_FEED_FORWARD = (
    *(_POINTER, _LONG, _LONG),
    *(_POINTER, _POINTER, _POINTER, _POINTER, _LONG, _LONG, _LONG),
    *(_POINTER, _LONG, _POINTER, _LONG),
    *(_INT, _INT, _INT),
)


def available(scheme: str) -> str | None:
    """The instruction level that a scheme's products run at here, None where they do not.

    Raises:
        InputError: there is no such scheme.
    """
    _check_scheme(scheme)
    found = library()
    levels = () if found is None else found.levels  # best last
    trusted = (
        name
        for name in reversed(levels)
        if name in _LEVELS[scheme]
        and not (name == "scalar" and scheme in _IMITATED)
        and (name not in _UNTRIED or _proven(name))
    )
    return next(trusted, None)


@cache
def _proven(level: str) -> bool:
    """Whether a level that its authors had no processor for gives what the scalar one gives."""
    draw = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(rows, 200, generator=draw, dtype=torch.float32) for rows in (33, 70))
    for scheme in (scheme for scheme, levels in _LEVELS.items() if level in levels):
        found, expected = (linear(x, pack(weight, scheme, level=name), None) for name in (level, "scalar"))
        if not torch.allclose(found, expected, rtol=0, atol=1e-4):
            logger.warning(
                "The kernels for %s give wrong products on this processor and are not used.", level
            )
            return False
    return True


def pack(weight: Tensor, scheme: str, *, level: str | None = None) -> PackedWeight:
    """A linear layer's weight as its product reads it.

    Args:
        weight: (out, in) float32, float16 or bfloat16.
        scheme: "float32"; "float16"; "int8" (a scale for each 64 inputs of an output); "int8-fast" (a scale
            for each output, chosen so that the squared error of its weights is smallest).
        level: the instruction level that will run it; the best by default. "scalar" runs everywhere; for
            "float16" it imitates the arithmetic of the others, slowly, and is never the default.

    Raises:
        InputError: the scheme is unknown, or the weight has no two dimensions, no element, or a value that is
            not finite or beyond the range of float16 in "float16".
        PrecisionError: the scheme or level does not run here.
    """
    level = level or available(scheme)
    if level is None and library() is not None:
        raise PrecisionError(
            f"{scheme!r} does not run here: this processor has no half precision products (AVX512-FP16, or "
            "the FP16 of Armv8.2). Take another scheme."
        )
    level = level or "scalar"
    _check_level(scheme, level)
    if weight.ndim != 2 or 0 in weight.shape or not weight.is_floating_point():
        raise InputError(
            f"A weight to pack is (out, in) in floating point, not {shape(weight)} {weight.dtype}."
        )
    out, inputs = weight.shape
    if scheme == "float32":
        data = float32_panels(weight)
    elif scheme == "float16":
        data = float16_panels(weight)
    else:
        data = quantised_panels(weight, scheme)
    return PackedWeight(out, inputs, scheme, level, data)


def linear(
    x: Tensor,
    weight: PackedWeight,
    bias: Tensor | None,
    *,
    gelu: bool = False,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """x weight' + bias, through GELU where asked, plus the residual.

    A row gets the same bits whatever stands beside it, and becomes NaN where one of its values is not finite.
    GELU is that of the error function, to 2e-7 and a rounding of the result.

    Args:
        x: (rows, in) float32 on the CPU; the rows may lie apart.
        bias: (out,) float32.
        residual: (rows, out) float32; the rows may lie apart.
        out: where the result goes, (rows, out) float32; it may be the residual, and x itself, but not overlap
            them otherwise.

    Returns:
        (rows, out) float32.

    Raises:
        InputError: shapes or dtypes do not fit.
        PrecisionError: the weight was packed for a level that does not run here.
    """
    found = library_for(weight)
    check_rows("x", x, (None, weight.in_features))
    rows, outputs = len(x), weight.out_features
    check_bias("bias", bias, outputs)
    y = result(rows, outputs, weight.scheme, residual, out)
    status = bound(found, "tercet_linear", _LINEAR)(
        x.data_ptr(), x.stride(0), rows,
        weight.data.data_ptr(), weight.in_features, outputs, pointer(bias), gelu,
        pointer(residual), 0 if residual is None else residual.stride(0), y.data_ptr(), y.stride(0),
        SCHEMES[weight.scheme], torch.get_num_threads(), LEVELS[weight.level],
    )  # fmt: skip
    check_status(status)
    return y if out is None or y is out else out.copy_(y)


def feed_forward(
    x: Tensor,
    up: PackedWeight,
    up_bias: Tensor | None,
    down: PackedWeight,
    down_bias: Tensor | None,
    *,
    residual: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    """gelu(x up' + up_bias) down' + down_bias + residual, with what lies between kept in cache.

    The bits are those of two `linear`, one after the other.

    Args:
        x: (rows, in) float32 on the CPU; the rows may lie apart.
        residual: (rows, out of `down`) float32; the rows may lie apart.
        out: where the result goes, as in `linear`.

    Returns:
        (rows, out of `down`) float32.

    Raises:
        InputError: shapes or dtypes do not fit, or the weights are of two schemes.
        PrecisionError: a weight was packed for a level that does not run here.
    """
    found = library_for(up)
    if (up.scheme, up.level, up.out_features) != (down.scheme, down.level, down.in_features):
        raise InputError(f"The two weights of a feed-forward do not fit together: {up} and {down}.")
    check_rows("x", x, (None, up.in_features))
    rows, outputs = len(x), down.out_features
    check_bias("up_bias", up_bias, up.out_features)
    check_bias("down_bias", down_bias, outputs)
    y = result(rows, outputs, up.scheme, residual, out)
    status = bound(found, "tercet_feed_forward", _FEED_FORWARD)(
        x.data_ptr(), x.stride(0), rows,
        up.data.data_ptr(), pointer(up_bias), down.data.data_ptr(), pointer(down_bias),
        up.in_features, up.out_features, outputs,
        pointer(residual), 0 if residual is None else residual.stride(0), y.data_ptr(), y.stride(0),
        SCHEMES[up.scheme], torch.get_num_threads(), LEVELS[up.level],
    )  # fmt: skip
    check_status(status)
    return y if out is None or y is out else out.copy_(y)


def library_for(weight: PackedWeight) -> Library:
    """The library, after a check that it can run a weight."""
    found = library()
    if found is None or weight.level not in found.levels or weight.level not in _LEVELS[weight.scheme]:
        _check_level(weight.scheme, weight.level)
    assert found is not None
    return found


def _check_scheme(scheme: str) -> None:
    if scheme not in _LEVELS:
        raise InputError(f"There is no scheme {scheme!r} of native products. {nearest(scheme, _LEVELS)}")


def _check_level(scheme: str, level: str) -> None:
    _check_scheme(scheme)
    found = library()
    if found is None:
        raise PrecisionError(f"There are no native kernels for {scheme!r}: {absence()}.")
    here = [name for name in found.levels if name in _LEVELS[scheme]]
    if level not in here:
        raise PrecisionError(
            f"{scheme!r} does not run at the instruction level {level!r} here. {nearest(level, here)} "
            "Pack the weight for one of them."
        )
