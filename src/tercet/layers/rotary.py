"""Rotary positions (Su et al. 2021): queries and keys turned by their places; products see the distance."""

from __future__ import annotations

__all__ = ["Rotary", "turned"]

import torch
from torch import Tensor, nn


class Rotary(nn.Module):
    """Angles of each position, a half of a head's width of them; slower ones towards the end.

    Args:
        width: of a head, even.
        base: `rope_theta`.
    """

    def __init__(self, width: int, base: float) -> None:
        super().__init__()
        # A real tensor also where the module is built without memory: it is in no file.
        places = torch.arange(0, width, 2, device="cpu", dtype=torch.float32)
        self.register_buffer("speeds", 1.0 / base ** (places / width), persistent=False)

    def forward(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens,) -> cosines and sines, (tokens, 1, width / 2) each in float32, as models are trained."""
        assert isinstance(self.speeds, Tensor)
        angles = position_ids[:, None, None].float() * self.speeds
        return angles.cos(), angles.sin()


def turned(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """(tokens, heads, width), numbers half a width apart turned as pairs."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
