"""Native attention over packed texts."""

from __future__ import annotations

__all__ = ["attention", "available", "multiplies_bfloat16"]

import ctypes

import torch
from torch import Tensor

from tercet.errors import InputError, TercetError
from tercet.kernels.memory import empty
from tercet.kernels.native import FLOAT_LEVELS, LEVELS, bound, library

_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
# query, key, value and out, each with its step; bounds, texts, heads, width; scale; bfloat16, threads, level
_SIGNATURE = (*(_POINTER, _LONG) * 4, _POINTER, _LONG, _LONG, _LONG, ctypes.c_float, _INT, _INT, _INT)
# Those that multiply bfloat16: an instruction of AVX512-BF16.
_BFLOAT16_LEVELS = ("avx512_bf16",)


def available(dtype: torch.dtype) -> bool:
    """Whether `attention` can be called here for rows of a dtype."""
    return dtype is torch.float32 and library() is not None


def multiplies_bfloat16() -> bool:
    """Whether `attention` can be asked here for products of bfloat16."""
    found = library()
    return found is not None and found.best(*_BFLOAT16_LEVELS) is not None


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    num_heads: int,
    *,
    bfloat16: bool = False,
    level: str | None = None,
) -> Tensor:
    """Softmax attention of each text over its own tokens, in float32.

    A text gets the same bits whatever stands beside it.

    Args:
        query, key, value: (tokens, hidden) float32 on the CPU, the columns of a row side by side.
        bounds: (texts + 1,) int32, where each text begins, ascending from 0; rows behind the last belong to
            none and come out as zeros.
        num_heads: heads that share the hidden size.
        bfloat16: round queries, keys, values and weights to bfloat16, multiply these, and sum in float32; a
            weight is wrong by 2**-9 of itself at most for that, twice as fast where `multiplies_bfloat16`.
        level: the instruction level; the best by default.

    Returns:
        (tokens, hidden) float32.

    Raises:
        InputError: shapes, dtypes or strides do not fit.
    """
    found = library()
    assert found is not None
    tokens, hidden = query.shape
    for name, rows in (("query", query), ("key", key), ("value", value)):
        fits = rows.shape == query.shape and rows.dtype is torch.float32 and rows.is_cpu
        if not fits or (hidden > 1 and rows.stride(1) != 1):
            raise InputError(
                f"{name} is {tuple(rows.shape)} {rows.dtype} on {rows.device}, in steps of {rows.stride()}, "
                f"not {(tokens, hidden)} torch.float32 on cpu with the columns of a row side by side."
            )
    if bounds.dtype is not torch.int32 or not bounds.is_cpu or not bounds.is_contiguous():
        raise InputError(
            f"bounds are {bounds.dtype} on {bounds.device}, not torch.int32 on cpu, contiguous; "
            "Batch.cu_seqlens are."
        )
    texts, width = len(bounds) - 1, hidden // num_heads
    out = empty(tokens, hidden)
    covered = int(bounds[-1])
    if covered < tokens:
        out[covered:] = 0
    if texts and covered:
        levels = _BFLOAT16_LEVELS if bfloat16 else FLOAT_LEVELS
        number = found.best(*levels) if level is None else LEVELS[level]
        status = bound(found, "tercet_attention", _SIGNATURE)(
            query.data_ptr(), query.stride(0), key.data_ptr(), key.stride(0),
            value.data_ptr(), value.stride(0), out.data_ptr(), hidden,
            bounds.data_ptr(), texts, num_heads, width, width**-0.5,
            bfloat16, torch.get_num_threads(), number,
        )  # fmt: skip
        if status:
            raise TercetError(
                "The native attention found no memory for its scratch, a megabyte a thread. Free memory, or "
                "set TERCET_KERNELS=none."
            )
    return out
