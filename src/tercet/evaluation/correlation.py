"""Correlation of two rows of numbers."""

from __future__ import annotations

__all__ = ["pearson", "spearman"]

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating[Any]]


def pearson(left: Numbers, right: Numbers) -> float | None:
    """Pearson's r in float64; None where a side is constant, for there is none."""
    # Asked of the numbers themselves: the mean of equal ones may be rounded away from them.
    if any(len(side) == 0 or side.min() == side.max() for side in (left, right)):
        return None
    left, right = (side.astype(np.float64) - side.astype(np.float64).mean() for side in (left, right))
    scale = float(np.linalg.norm(left)) * float(np.linalg.norm(right))
    return float(left @ right) / scale if scale > 0 else None


def spearman(left: Numbers, right: Numbers) -> float | None:
    """Spearman's rho: Pearson's r of the ranks, equal numbers having the mean of theirs."""
    return pearson(_ranks(left), _ranks(right))


def _ranks(values: Numbers) -> Numbers:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[inverse]
