"""Vectors in the forms that sentence-transformers' `encode` gives them back in."""

from __future__ import annotations

__all__ = ["Precision", "checked_precision", "given_as", "in_precision", "watched"]

import sys
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from tercet.errors import PrecisionError, UnknownNameError, nearest
from tercet.quantization import Quantizer

Precision: TypeAlias = Literal["float32", "int8", "uint8", "binary", "ubinary"]
_PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
T = TypeVar("T")
# Texts between two looks at the bar.
_SLICE = 256


def checked_precision(precision: str | None, quantizer: Quantizer | None) -> Precision:
    """The precision, float32 of None, found to be possible before anything is computed.

    Raises:
        UnknownNameError: another precision.
        PrecisionError: 8-bit codes without a quantizer that was calibrated for them.
    """
    if precision is None:
        return "float32"
    if precision not in _PRECISIONS:
        raise UnknownNameError(f"precision is {precision!r}. {nearest(str(precision), _PRECISIONS)}")
    if precision in ("int8", "uint8") and (quantizer is None or quantizer.precision != "int8"):
        raise PrecisionError(
            f"precision={precision!r} needs ranges that stay the same from call to call: codes that each "
            "call scales by its own texts cannot be compared with one another. Calibrate once with a sample: "
            "model.quantizer = Quantizer.fit(model.encode(sample, convert_to_tensor=True), 'int8'), from "
            "tercet.quantization."
        )
    return cast(Precision, precision)


def in_precision(vectors: Tensor, precision: Precision, quantizer: Quantizer | None) -> Tensor:
    """(texts, dim) float32 as numbers of `precision`: (texts, dim), of bits (texts, ceil(dim / 8))."""
    if precision == "float32" or not len(vectors):
        return vectors
    if precision in ("binary", "ubinary"):
        return Quantizer(precision, vectors.shape[1]).encode(vectors).codes
    assert quantizer is not None
    codes = quantizer.encode(vectors.cpu()).codes
    # 128 more, modulo 256, is the same byte with its highest bit turned over.
    return codes if precision == "int8" else codes.view(torch.uint8) ^ 0x80


def given_as(
    rows: Tensor, *, alone: bool, to_numpy: bool, to_tensor: bool, device: str
) -> np.ndarray | Tensor | list[Tensor]:
    """(texts, dim) as an array, a tensor, or a list of rows; one text alone is its row.

    Tensors lie on the model's device, as there; of no texts nothing is known, not even the width.
    """
    if not len(rows):
        rows = rows.new_empty(0)
    if to_numpy and not to_tensor:
        array = rows.numpy()
        return array[0] if alone else array
    rows = rows.to(device)
    if alone:
        return rows[0]
    return rows if to_tensor else list(rows)


def watched(
    encode: Callable[[Sequence[str]], T], texts: Sequence[str], *, shown: bool, join: Callable[[list[T]], T]
) -> T:
    """What `encode` gives for the texts; with a bar if it is to be shown and standard error is a terminal."""
    if not shown or not sys.stderr.isatty() or len(texts) <= _SLICE:
        return encode(texts)
    from rich.console import Console
    from rich.progress import track

    firsts = range(0, len(texts), _SLICE)
    console = Console(stderr=True)
    parts = [
        encode(texts[first : first + _SLICE])
        for first in track(firsts, "Batches", console=console, transient=True)
    ]
    return join(parts)
