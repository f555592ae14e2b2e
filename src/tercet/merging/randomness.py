"""Random numbers by place: the same whatever the chunks, the machine and the version of torch."""

from __future__ import annotations

__all__ = ["uniform"]

import torch
from torch import Tensor


def uniform(seed: int, first: int, shape: tuple[int, ...]) -> Tensor:
    """Numbers in [0, 1) in float64 for the places from `first` on (SplitMix64: Steele, Lea, Flood 2014).

    Args:
        seed: of the stream, 64 bits.
        first: the place of the first number.
        shape: of what comes back, row after row.
    """
    count = torch.Size(shape).numel()
    # int64 arithmetic wraps, which is what the generator wants.
    state = torch.arange(first + 1, first + 1 + count, dtype=torch.int64) * _signed(0x9E3779B97F4A7C15) + seed
    state = (state ^ _shifted(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shifted(state, 27)) * _signed(0x94D049BB133111EB)
    state = state ^ _shifted(state, 31)
    return (_shifted(state, 11).double() * 2.0**-53).reshape(shape)


def _shifted(state: Tensor, by: int) -> Tensor:
    """A shift to the right that brings in zeros: torch's brings in the sign."""
    return (state >> by) & ((1 << (64 - by)) - 1)


def _signed(bits: int) -> int:
    return bits - (1 << 64) if bits >> 63 else bits
