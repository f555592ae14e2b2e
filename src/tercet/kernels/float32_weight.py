"""Weights in float32, laid out in panels."""

from __future__ import annotations

__all__ = ["float32_panels"]

import torch
from torch import Tensor

from tercet.errors import InputError
from tercet.kernels.packed_weight import PANEL, data_bytes


def float32_panels(weight: Tensor) -> Tensor:
    """The bytes of a weight in "float32": panels of (inputs, 32 outputs), zeros behind the last of each.

    Args:
        weight: (out, in) of floating point.

    Returns:
        (bytes,) uint8.

    Raises:
        InputError: a value is not finite, or the shape cannot be packed.
    """
    if not torch.isfinite(weight).all():
        raise InputError(
            f"The weight {tuple(weight.shape)} holds a value that is not finite; repair the checkpoint."
        )
    out, inputs = weight.shape
    data = torch.empty(data_bytes(out, inputs, "float32"), dtype=torch.uint8)
    panels = data.view(torch.float32).view(-(-out // PANEL), -1, PANEL)
    full = out // PANEL
    panels[:full, :inputs] = weight[: full * PANEL].detach().view(full, PANEL, inputs).transpose(1, 2)
    if full < len(panels):
        panels[full] = 0
        panels[full, :inputs, : out - full * PANEL] = weight[full * PANEL :].detach().t()
    panels[:, inputs:] = 0
    return data
