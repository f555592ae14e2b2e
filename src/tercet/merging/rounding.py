"""float64 rounded once to a narrower format, with what was lost on the way."""

from __future__ import annotations

__all__ = ["rounded"]

import torch
from torch import Tensor


def rounded(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest number of `dtype`, ties to even; beyond its range infinite.

    torch goes from float64 to 16 bits by float32, which rounds twice. Rounding to odd on the way there keeps
    what the second rounding needs to know (Boldo and Melquiond 2008).
    """
    if dtype in (torch.float64, torch.float32):
        return exact.to(dtype)
    near = exact.float()
    back = near.double()
    bits = near.view(torch.int32)
    # towards zero, then the last bit set wherever something was cut off
    bits = bits - ((back.abs() > exact.abs()) & back.isfinite()).int()
    bits = bits | ((back != exact) & back.isfinite()).int()
    return bits.view(torch.float32).to(dtype)
