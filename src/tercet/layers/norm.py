"""Normalisation of rows: by mean and variance, by their root mean square, or to unit length."""

from __future__ import annotations

__all__ = ["LayerNorm", "RMSNorm", "unit_rows"]

import torch
from torch import Tensor, nn

from tercet.kernels import norm as native

# torch's own in `functional.normalize`, which the peers take: a zero vector stays zero.
_LEAST_LENGTH = 1e-12


class LayerNorm(nn.LayerNorm):
    """Layer normalisation (Ba et al. 2016) over the last dimension, by our kernel or torch's."""

    def forward(self, x: Tensor) -> Tensor:
        """(tokens, width) -> (tokens, width)."""
        # The kernel knows no gradients.
        if native.available(x.dtype) and not torch.is_grad_enabled() and self._fits(x):
            return native.layer_norm(x, self.weight, self.bias, self.eps)
        return torch.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def _fits(self, x: Tensor) -> bool:
        """Whether the kernel, which sees addresses alone, can be given these rows and the parameters."""
        fits = x.is_cpu and x.ndim == 2 and x.shape[1:] == self.normalized_shape and x.stride(1) == 1
        return fits and self.weight.dtype is self.bias.dtype is torch.float32


class RMSNorm(nn.Module):
    """Rows divided by their root mean square (Zhang & Sennrich 2019), in float32 or wider."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same, in its dtype."""
        return self.wide(x).to(x.dtype)

    def wide(self, x: Tensor) -> Tensor:
        """(..., width) -> the same, not yet rounded to a half format."""
        rows = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(rows.square().mean(-1, keepdim=True) + self.eps)
        return rows * scale * self.weight


def unit_rows(vectors: Tensor) -> Tensor:
    """(rows, width) divided by their lengths, in a new tensor; bit for bit `functional.normalize`."""
    # That function's way to the same operations takes longer than they do for one row.
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / lengths.clamp_min_(_LEAST_LENGTH)
