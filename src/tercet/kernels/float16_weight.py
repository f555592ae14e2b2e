"""Weights in float16, laid out in panels."""

from __future__ import annotations

__all__ = ["float16_panels"]

import torch
from torch import Tensor

from tercet.errors import InputError
from tercet.kernels.packed_weight import PANEL, data_bytes

_MOST = torch.finfo(torch.float16).max


def float16_panels(weight: Tensor) -> Tensor:
    """The bytes of a weight in "float16": panels of (inputs / 2, 32 outputs, 2), filled up with zeros.

    Args:
        weight: (out, in) of floating point; float16 is taken as it is.

    Returns:
        (bytes,) uint8.

    Raises:
        InputError: a value is not finite or beyond the range of float16, or the shape cannot be packed.
    """
    low, high = (value.item() for value in torch.aminmax(weight.detach()))
    if not -_MOST <= low <= high <= _MOST:
        finite = bool(torch.isfinite(weight).all())
        raise InputError(
            f"The weight {tuple(weight.shape)} holds "
            + (
                f"{low if low < -_MOST else high:g}, beyond the range of float16 (largest number {_MOST:g}); "
                'pack it as "float32".'
                if finite
                else "a value that is not finite; repair the checkpoint."
            )
        )
    out, inputs = weight.shape
    data = torch.empty(data_bytes(out, inputs, "float16"), dtype=torch.uint8)
    panels = data.view(torch.float16).view(-(-out // PANEL), -1, PANEL, 2)
    full, pairs = out // PANEL, inputs // 2
    by_panel = weight.detach()[: full * PANEL].view(full, PANEL, inputs)
    panels[:full, :pairs] = by_panel[:, :, : 2 * pairs].view(full, PANEL, pairs, 2).transpose(1, 2)
    panels[:full, pairs:] = 0
    if inputs % 2:
        panels[:full, pairs, :, 0] = by_panel[:, :, -1]
    if full < len(panels):
        rest = weight.detach()[full * PANEL :]
        last = panels[full]
        last.zero_()
        last[:pairs, : len(rest)] = rest[:, : 2 * pairs].reshape(len(rest), pairs, 2).transpose(0, 1)
        if inputs % 2:
            last[pairs, : len(rest), 0] = rest[:, -1]
    return data
