"""Small measures that others are made of: differences of rows, and their distribution over texts."""

from __future__ import annotations

__all__ = ["Running", "Spread", "cosine_drift", "norm_error"]

import math
from array import array
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Spread:
    """One number of each text, in short.

    Attributes:
        texts: how many there were.
        p50, p99: quantiles, exact, interpolated between the two texts next to them.
        mean, worst: exact, too.
        worst_texts: (position of the text, its number), the largest first; of equal ones the first.
    """

    texts: int
    p50: float
    p99: float
    mean: float
    worst: float
    worst_texts: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, values: array[float], most: int) -> Spread:
        """That of at least one number; `most` of the worst are named."""
        numbers = np.frombuffer(values, dtype=np.float64)
        p50, p99 = (float(found) for found in np.quantile(numbers, (0.5, 0.99)))
        order = np.argsort(-numbers, kind="stable")[:most]
        worst = tuple((int(text), float(numbers[text])) for text in order)
        return cls(len(numbers), p50, p99, math.fsum(values) / len(numbers), float(numbers.max()), worst)


def cosine_drift(reference: Tensor, found: Tensor) -> Tensor:
    """(rows,) float64, 1 - cosine of each row with the same row of the other; between 0 and 2.

    Computed as half the squared distance of both unit rows: exactly 0 for equal rows, and precise where the
    subtraction would leave only rounding. Two rows of zeros do not differ; one alone has a cosine of 0.
    """
    lengths = [rows.double().norm(dim=1, keepdim=True) for rows in (reference, found)]
    unit = [
        rows.double() / torch.where(length > 0.0, length, 1.0)
        for rows, length in zip((reference, found), lengths, strict=True)
    ]
    drift = (unit[0] - unit[1]).square().sum(dim=1) / 2.0
    one_is_zero = ((lengths[0] == 0.0) != (lengths[1] == 0.0))[:, 0]
    return torch.where(one_is_zero, 1.0, drift)


def norm_error(reference: Tensor, found: Tensor) -> Tensor:
    """(rows,) float64; a length that should be 0 and is not has an error of 1."""
    expected, there = (rows.double().norm(dim=1) for rows in (reference, found))
    error = (there / torch.where(expected > 0.0, expected, 1.0) - 1.0).abs()
    return torch.where(expected > 0.0, error, (there > 0.0).double())


class Running:
    """Mean and worst of numbers of which none is kept."""

    def __init__(self) -> None:
        """Of none yet."""
        self.count = 0
        self.worst = 0.0
        self._sums = array("d")

    def add(self, values: Tensor) -> bool:
        """Whether the worst so far is among these values."""
        if not len(values):
            return False
        self.count += len(values)
        self._sums.append(math.fsum(values.tolist()))
        # As few as texts: one sum a part, joined without rounding at the end.
        largest = float(values.max())
        if largest <= self.worst and self.count > len(values):
            return False
        self.worst = max(self.worst, largest)
        return True

    @property
    def mean(self) -> float:
        """Of all so far; 0 of none."""
        return math.fsum(self._sums) / self.count if self.count else 0.0
