"""Rows of several texts laid end to end: which text to take, and where its rows begin."""

from __future__ import annotations

__all__ = ["Key", "cast", "check_offsets", "close", "concat_offsets", "gather", "only", "resolve"]

from collections.abc import Sequence
from operator import index as as_integer
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor

from tercet.errors import InputError, NonFiniteError

Key: TypeAlias = int | slice | Sequence[int] | Sequence[bool] | Tensor | NDArray[Any]


def resolve(key: Key, length: int) -> slice | Tensor:
    """Which of `length` texts `key` means: a slice of step 1, or an index (chosen,) int64, all at least 0.

    Raises:
        IndexError: a position that is not there.
        InputError: neither a position, a slice, positions, nor one boolean a text.
    """
    if isinstance(key, slice):
        start, stop, step = key.indices(length)
        return (
            slice(start, max(start, stop))
            if step == 1
            else torch.tensor(range(length)[key], dtype=torch.int64)
        )
    if isinstance(key, str):
        raise InputError(
            f"Texts are chosen by position, not by {key!r}; "
            "the vectors are attributes: .dense, .sparse, .multivector."
        )
    if not isinstance(key, Sequence) and getattr(key, "ndim", 0) == 0:
        position = _position(key, length)
        return slice(position, position + 1)
    chosen = torch.as_tensor(key).cpu()
    if chosen.ndim != 1:
        raise InputError(f"Texts are chosen by positions in one row, not in shape {tuple(chosen.shape)}.")
    if chosen.numel() == 0 and chosen.dtype != torch.bool:
        return torch.zeros(0, dtype=torch.int64)
    if chosen.dtype == torch.bool:
        if len(chosen) != length:
            raise InputError(
                f"A mask of {len(chosen)} booleans was given for {length} texts; give one for each."
            )
        return chosen.nonzero()[:, 0]
    if chosen.is_floating_point() or chosen.is_complex():
        raise InputError(f"Texts are chosen by integers or booleans, not by {chosen.dtype}.")
    chosen = chosen.to(torch.int64)
    _check_range(int(chosen.min()), int(chosen.max()), length)
    return torch.where(chosen < 0, chosen + length, chosen)


def _position(key: Any, length: int) -> int:
    """The one text that `key` means, counted from 0."""
    try:
        position = as_integer(key)
    except TypeError:
        raise InputError(
            f"A {type(key).__name__} chooses no texts; give a position, a slice, a list or a mask."
        ) from None
    _check_range(position, position, length)
    return position % length


def _check_range(lowest: int, highest: int, length: int) -> None:
    """An IndexError unless every position from `lowest` to `highest` is one of `length` texts."""
    for position in (lowest, highest):
        if not -length <= position < length:
            raise IndexError(f"text {position} of {length}")


def gather(offsets: Tensor, chosen: slice | Tensor) -> tuple[slice | Tensor, Tensor]:
    """The rows of the chosen texts, and where each begins among them.

    Args:
        offsets: (texts + 1,) int64.
        chosen: what `resolve` gave.

    Returns:
        rows: a slice, or (rows,) int64.
        offsets: (chosen + 1,) int64.
    """
    if isinstance(chosen, slice):
        begins = offsets[chosen.start : chosen.stop + 1]
        return slice(int(begins[0]), int(begins[-1])), begins - begins[0]
    chosen = chosen.to(offsets.device)
    lengths = offsets.diff()[chosen]
    begins = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    shift = torch.repeat_interleave(offsets[chosen] - begins[:-1], lengths)
    return shift + torch.arange(len(shift), device=offsets.device), begins


def concat_offsets(parts: Sequence[Tensor]) -> Tensor:
    """Where each text begins once the parts' rows are laid end to end."""
    lengths = torch.cat([part.diff() for part in parts])
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def check_offsets(what: str, offsets: Tensor, rows: int) -> None:
    """An InputError unless `offsets` is (texts + 1,) int64, ascending from 0 to `rows`."""
    if offsets.ndim != 1 or len(offsets) == 0 or offsets.dtype != torch.int64:
        raise InputError(
            f"{what}: offsets must be (texts + 1,) int64, not {tuple(offsets.shape)} {offsets.dtype}."
        )
    if int(offsets[0]) != 0 or int(offsets[-1]) != rows or bool((offsets.diff() < 0).any()):
        raise InputError(
            f"{what}: offsets must ascend from 0 to the number of rows, {rows}; "
            f"they go from {int(offsets[0])} to {int(offsets[-1])}."
        )


def only(what: str, values: set[Any]) -> Any:
    """The one value that all parts share, or an InputError."""
    if len(values) > 1:
        listed = " and ".join(sorted(map(str, values)))
        raise InputError(f"Embeddings of different models or options cannot be joined: {what} is {listed}.")
    return next(iter(values))


def cast(what: str, values: Tensor, dtype: torch.dtype) -> Tensor:
    """The same values in a floating-point dtype.

    Raises:
        InputError: not a floating-point dtype.
        NonFiniteError: a finite value is too large for it.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"{dtype!r} is not a floating-point dtype of torch; give for example torch.float16.")
    converted = values.to(dtype)
    # only a smaller largest number can overflow, so most changes of dtype are not looked through
    if torch.finfo(dtype).max < torch.finfo(values.dtype).max and bool(
        (converted.isinf() & ~values.isinf()).any()
    ):
        largest = float(values.abs().max())
        raise NonFiniteError(
            f"{what}: {largest:g} does not fit in {dtype}; keep float32, or normalise the vectors."
        )
    return converted


def close(left: Tensor, right: Tensor, *, rtol: float, atol: float) -> bool:
    """Whether two tensors of any floating-point dtypes agree in shape and, compared in float64, in value."""
    if left.shape != right.shape:
        return False
    return torch.allclose(left.double().cpu(), right.double().cpu(), rtol=rtol, atol=atol)
