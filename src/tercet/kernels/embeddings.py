"""Rows of embedding tables, summed and normalised natively in one."""

from __future__ import annotations

__all__ = ["Tables", "embeddings", "fit"]

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from tercet.errors import InputError
from tercet.kernels.arguments import pointer
from tercet.kernels.memory import empty
from tercet.kernels.native import FLOAT_LEVELS, LEVELS, bound, library

_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
# word, its rows, ids; position, its rows, ids, first; type, its rows, ids; rows, width; weight, bias,
# epsilon; y, its step; threads, level
_SIGNATURE = (
    *(_POINTER, _LONG, _POINTER),
    *(_POINTER, _LONG, _POINTER, _LONG),
    *(_POINTER, _LONG, _POINTER),
    *(_LONG, _LONG, _POINTER, _POINTER, ctypes.c_float),
    *(_POINTER, _LONG, _INT, _INT),
)


class Tables(NamedTuple):
    """Embedding tables of one width: (vocabulary, width), (positions, width), (types, width) or None."""

    word: Tensor
    position: Tensor
    token_type: Tensor | None


def fit(tables: Tables, weight: Tensor, bias: Tensor) -> bool:
    """Whether `embeddings` can be called here for these: all in float32 on the CPU, each of one piece."""
    given = (*(table for table in tables if table is not None), weight, bias)
    return library() is not None and all(
        tensor.dtype is torch.float32 and tensor.is_cpu and tensor.is_contiguous() for tensor in given
    )


def embeddings(
    tables: Tables,
    token_ids: Tensor,
    position_ids: Tensor,
    token_type_ids: Tensor | None,
    norm: tuple[Tensor, Tensor, float],
    *,
    first_position: int = 0,
    level: str | None = None,
) -> Tensor:
    """What enters the layers of an encoder: layer_norm(word + position + token type), a row a token.

    The bits are those of `functional.embedding`, the sums in this order, and `layer_norm`.

    Args:
        tables: what `fit` says yes to.
        token_ids, position_ids: (tokens,) int64 on the CPU, contiguous.
        token_type_ids: the same; None for row 0 of every token.
        norm: weight and bias (width,), and epsilon.
        first_position: the row of the position table that an id of 0 means.
        level: the instruction level; the best by default.

    Returns:
        (tokens, width) float32.

    Raises:
        InputError: an id has no row in its table.
    """
    found = library()
    assert found is not None
    types = tables.token_type
    ids = (token_ids, position_ids, token_type_ids)
    assert all(given is None or (given.dtype is torch.int64 and given.is_contiguous()) for given in ids)
    rows, width = len(token_ids), tables.word.shape[1]
    y = empty(rows, width)
    number = found.best(*FLOAT_LEVELS) if level is None else LEVELS[level]
    weight, bias, epsilon = norm
    status = bound(found, "tercet_embeddings", _SIGNATURE)(
        tables.word.data_ptr(), len(tables.word), token_ids.data_ptr(),
        tables.position.data_ptr(), len(tables.position), position_ids.data_ptr(), first_position,
        pointer(types), 0 if types is None else len(types), pointer(token_type_ids),
        rows, width, weight.data_ptr(), bias.data_ptr(), epsilon,
        y.data_ptr(), y.stride(0), torch.get_num_threads(), number,
    )  # fmt: skip
    if status == 3:
        raise InputError(_beyond(tables, ids, first_position))
    assert status == 0
    return y


def _beyond(tables: Tables, ids: tuple[Tensor, Tensor, Tensor | None], first_position: int) -> str:
    """Which id has no row."""
    names = ("token", "position", "token type")
    for name, table, given, first in zip(names, tables, ids, (0, first_position, 0), strict=True):
        if table is None or given is None:
            continue
        outside = (given + first < 0) | (given + first >= len(table))
        if outside.any():
            return (
                f"There is no row {int(given[outside][0]) + first} in the table of {name} embeddings, which "
                f"has {len(table)}: the tokenizer does not fit the model. Fetch the folder again."
            )
    raise AssertionError("every id has its row")
