"""Ranges of each dimension, by which numbers become 8-bit codes and come back without bias."""

from __future__ import annotations

__all__ = ["Ranges"]

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tercet.errors import InputError

_BINS = 256
_LOWEST = -128


@dataclass(frozen=True, slots=True, eq=False)
class Ranges:
    """The smallest and the largest value of each dimension, cut into 256 bins of equal width.

    A code names a bin, and is decoded to its centre: what is spread evenly within the bins comes back without
    bias, where decoding to a bin's lower edge would make every number too small by half a bin.

    Attributes:
        low, high: (dim,) float64.
        vectors: how many they were found in.
    """

    low: Tensor
    high: Tensor
    vectors: int

    def __post_init__(self) -> None:
        if self.low.ndim != 1 or self.low.shape != self.high.shape:
            raise InputError(
                "Ranges: low and high must both be (dim,), "
                f"not {tuple(self.low.shape)} and {tuple(self.high.shape)}."
            )
        ordered = torch.isfinite(self.low) & torch.isfinite(self.high) & (self.low <= self.high)
        if not bool(ordered.all()):
            dimension = int((~ordered).nonzero()[0])
            raise InputError(
                f"Ranges: dimension {dimension} goes from {self.low[dimension]:g} to "
                f"{self.high[dimension]:g}; give finite numbers, the smaller one first."
            )

    @classmethod
    def of(cls, parts: Iterable[Tensor]) -> Ranges:
        """Those of vectors that come in parts (vectors, dim); one part is held at a time.

        Raises:
            InputError: fewer than two vectors, of which no range can be told.
        """
        low = high = torch.empty(0, dtype=torch.float64)
        count = 0
        for part in parts:
            if not len(part):
                continue
            smallest, largest = (end.double().cpu() for end in torch.aminmax(part, dim=0))
            low = torch.minimum(low, smallest) if count else smallest
            high = torch.maximum(high, largest) if count else largest
            count += len(part)
        if count < 2:
            raise InputError(
                f"{count} vectors were given to calibrate int8, of which no range can be told. Give a sample "
                "of what will be stored: a few thousand vectors."
            )
        return cls(low, high, count)

    @property
    def step(self) -> Tensor:
        """(dim,) float64, width of a bin; 0 where all vectors had the same number."""
        return (self.high - self.low) / _BINS

    def encode(self, vectors: Tensor) -> tuple[Tensor, int]:
        """Codes (vectors, dim) int8, and how many values lay outside and took the nearest end's code."""
        low, high, step = (ends.to(vectors.device) for ends in (self.low, self.high, self.step))
        vectors = vectors.double()
        outside = int(((vectors < low) | (vectors > high)).sum())
        bins = torch.floor((vectors - low) / torch.where(step > 0.0, step, 1.0))
        return (bins.clamp(0, _BINS - 1) + _LOWEST).to(torch.int8), outside

    def decode(self, codes: Tensor) -> Tensor:
        """(vectors, dim) float32, the centre of each code's bin."""
        low, step = self.low.to(codes.device), self.step.to(codes.device)
        return (low + (codes.double() + (0.5 - _LOWEST)) * step).float()
