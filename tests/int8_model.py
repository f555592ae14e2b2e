"""The int8 schemes in NumPy: float32 where the kernels round, exact integers, float64 for all behind them."""

import numpy as np
from scipy.special import erfc

TINY = np.float32(np.finfo(np.float32).tiny)

QUICK = (
    0.39787018299102783, -0.06455441564321518, 0.00876369047909975, -0.0008121870923787355,
    4.776383866555989e-05, -1.5888244888628833e-06, 2.2588155346170424e-08,
)  # fmt: skip


def gelu(x):
    return 0.5 * x * erfc(-x / np.sqrt(2.0))


def quick_gelu(x):
    """The GELU of int8-fast: a polynomial in place of the normal distribution, held to [-4, 4]."""
    near = np.clip(x, -4.0, 4.0)
    slope = np.polynomial.polynomial.polyval(near * near, QUICK)
    return x * (0.5 + near * slope)


def quantised_rows(x, group):
    """(q, zero, scale) of rows (rows, in) float32, padded to whole groups: (rows, groups, group)."""
    rows, inputs = x.shape
    groups = -(-inputs // group)
    padded = np.zeros((rows, groups * group), np.float32)
    padded[:, :inputs] = x
    padded = padded.reshape(rows, groups, group)
    least = np.minimum(padded.min(2, keepdims=True), 0)
    most = np.maximum(padded.max(2, keepdims=True), 0)
    scale = (most * np.float32(0.5) - least * np.float32(0.5)) * (np.float32(2) / np.float32(255))
    small = scale < TINY
    inverse = np.where(small, np.float32(0), np.float32(1) / np.where(small, np.float32(1), scale))
    # A product of two float32 is exact in float64: it is rounded once.
    zero = np.rint(-(least.astype(np.float64) * inverse))
    q = np.minimum(np.rint(padded.astype(np.float64) * inverse) + zero, 255)
    return q.astype(np.int64), zero.astype(np.int64), np.where(small, np.float32(0), scale)


def product(x, values, scales, group):
    """x times a quantised weight: values (out, groups, group) integers, scales (out, groups); float64."""
    return _scaled(*_exact(x, values, group), scales)


def group_sums(x, values, scales, group):
    """(rows, out): the sizes of the groups' sums, added up, where `product` adds the sums themselves."""
    exact, scale = _exact(x, values, group)
    return _scaled(np.abs(exact), scale, scales)


def _exact(x, values, group):
    """(rows, groups, out) sums of integers, and the scales of the rows."""
    q, zero, scale = quantised_rows(x, group)
    return np.einsum("rgk,ogk->rgo", q - zero, values.astype(np.int64)), scale[:, :, 0]


def _scaled(exact, scale, scales):
    """(rows, out) in float64."""
    wide = (part.astype(np.float64) for part in (exact, scale, scales))
    return np.einsum("rgo,rg,og->ro", *wide)


def unpacked(weight):
    """(values (out, groups, group), scales (out, groups)) read back from a packed weight's bytes."""
    panels, chunks = -(-weight.out_features // 32), -(-weight.in_features // 64)
    data = weight.data.numpy().reshape(panels, -1)
    if weight.scheme == "int8":
        parts = data.reshape(panels, chunks, -1)
        scales = np.ascontiguousarray(parts[:, :, 2048 + 128 :]).view(np.float32).transpose(0, 2, 1)
        numbers = parts[:, :, :2048]
    else:
        scales = np.ascontiguousarray(data[:, chunks * 2048 + 128 :]).view(np.float32)[:, :, None]
        numbers = data[:, : chunks * 2048]
    numbers = np.ascontiguousarray(numbers).view(np.int8).reshape(panels, chunks * 16, 32, 4)
    values = numbers.transpose(0, 2, 1, 3).reshape(
        panels * 32, *((chunks, 64) if weight.scheme == "int8" else (1, chunks * 64))
    )
    scales = scales.reshape(panels * 32, -1)
    return values[: weight.out_features], scales[: weight.out_features]
