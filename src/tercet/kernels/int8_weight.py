"""Weights quantised to 8 bits and laid out in panels."""

from __future__ import annotations

__all__ = ["quantised_panels"]

import torch
from torch import Tensor

from tercet.errors import InputError
from tercet.kernels.packed_weight import CHUNK, PANEL, data_bytes

_LARGEST = 127
# Shares of an output's largest weight that its range may be cut to: the few beyond lose, all others gain.
_CUTS = (1.0, 0.99, 0.98, 0.97, 0.96, 0.95, 0.93, 0.91, 0.89, 0.86, 0.83, 0.8)
# Panels quantised at a time: what is between them and the result stays small.
_PANELS_AT_A_TIME = 8


def quantised_panels(weight: Tensor, scheme: str) -> Tensor:
    """The bytes of a weight in "int8" or "int8-fast"; cpp/int8_format.h draws them.

    Args:
        weight: (out, in) of floating point.

    Returns:
        (bytes,) uint8.

    Raises:
        InputError: a value is not finite, or the shape cannot be packed.
    """
    out, inputs = weight.shape
    data = torch.empty(data_bytes(out, inputs, scheme), dtype=torch.uint8)
    panels, chunks = -(-out // PANEL), -(-inputs // CHUNK)
    by_panel = data.view(panels, -1)
    for first in range(0, panels, _PANELS_AT_A_TIME):
        some = weight[first * PANEL : (first + _PANELS_AT_A_TIME) * PANEL].detach().float()
        if not torch.isfinite(some).all():
            raise InputError(
                f"The weight {tuple(weight.shape)} holds a value that is not finite; repair the checkpoint."
            )
        count = -(-len(some) // PANEL)
        padded = torch.zeros(count * PANEL, chunks * CHUNK, dtype=torch.float32)
        padded[: len(some), :inputs] = some
        target = by_panel[first : first + count]
        if scheme == "int8":
            _fill_groups(target, padded.view(-1, chunks, CHUNK))
        else:
            _fill_outputs(target, padded)
    return data


def _fill_outputs(target: Tensor, weight: Tensor) -> None:
    """Panels with one scale an output."""
    scale = _best_scales(weight)
    values = _quantised(weight, scale)
    size = values.shape[1] * PANEL
    target[:, :size] = _panels(values).reshape(len(target), size)
    sums = values.sum(1, dtype=torch.int32)
    target[:, size : size + 4 * PANEL] = _bytes(sums, len(target))
    target[:, size + 4 * PANEL :] = _bytes(scale.squeeze(1), len(target))


def _fill_groups(target: Tensor, weight: Tensor) -> None:
    """Panels with a scale for each output and chunk; weight: (outputs, chunks, 64)."""
    chunks = weight.shape[1]
    scale = _scales(weight.abs().amax(2, keepdim=True))
    values = _quantised(weight, scale)
    parts = target.view(len(target), chunks, -1)
    size = CHUNK * PANEL
    parts[:, :, :size] = _panels(values.view(len(values), -1)).reshape(len(target), chunks, size)
    # A pair of 16 bits: minus the sum, which the zero point multiplies, and 0.
    sums = -values.sum(2, dtype=torch.int32) & 0xFFFF
    for column, numbers in ((size, sums), (size + 4 * PANEL, scale.squeeze(2))):
        by_chunk = numbers.view(len(target), PANEL, chunks).transpose(1, 2).contiguous()
        parts[:, :, column : column + 4 * PANEL] = by_chunk.view(torch.uint8)


def _best_scales(weight: Tensor) -> Tensor:
    """For each row the scale, among some, whose rounded weights are nearest to it: (rows, 1)."""
    largest = weight.abs().amax(1, keepdim=True)
    best = _scales(largest)
    least = _squared_error(weight, best)
    for cut in _CUTS[1:]:
        scale = _scales(largest * cut)
        error = _squared_error(weight, scale)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best


def _squared_error(weight: Tensor, scale: Tensor) -> Tensor:
    inverse = torch.where(scale > 0, 1 / scale, 0)
    rounded = (weight * inverse).round_().clamp_(-_LARGEST, _LARGEST).mul_(scale)
    return rounded.sub_(weight).square_().sum(1, keepdim=True)


def _scales(largest: Tensor) -> Tensor:
    """The scale of a range; a range too small for float32's normal numbers counts as zeros."""
    scale = largest / _LARGEST
    return torch.where(scale < torch.finfo(torch.float32).tiny, 0, scale)


def _quantised(weight: Tensor, scale: Tensor) -> Tensor:
    """int8 in [-127, 127], rounded half to even."""
    inverse = torch.where(scale > 0, 1 / scale, 0)
    return (weight * inverse).round_().clamp_(-_LARGEST, _LARGEST).to(torch.int8)


def _panels(values: Tensor) -> Tensor:
    """(outputs, inputs) as panels (panels, inputs / 4, PANEL, 4)."""
    outputs, inputs = values.shape
    ordered = values.view(outputs // PANEL, PANEL, inputs // 4, 4).transpose(1, 2).contiguous()
    return ordered.view(torch.uint8)


def _bytes(numbers: Tensor, panels: int) -> Tensor:
    return numbers.contiguous().view(torch.uint8).view(panels, -1)
