"""Whether a change of a metric is more than chance: paired randomisation test and bootstrap interval."""

from __future__ import annotations

__all__ = ["Interval", "RandomizationTest", "paired_bootstrap", "paired_randomization"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.errors import InputError

# Up to so many differences, every assignment of signs is tried: 65,536.
_MOST_EXACT = 16
# Signs or draws that are in memory at once.
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class RandomizationTest:
    """What a paired randomisation test says.

    Attributes:
        difference: mean of changed - reference.
        p_value: two-sided: how often a mean at least as far from 0 comes up where signs are chance.
        exact: whether every assignment of signs was tried; else some were drawn.
        assignments: how many were tried.
        pairs: how many there were.
    """

    difference: float
    p_value: float
    exact: bool
    assignments: int
    pairs: int


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the mean change lies.

    Attributes:
        difference: mean of changed - reference.
        low, high: ends of the interval.
        level: its nominal coverage.
        samples: how many were drawn.
    """

    difference: float
    low: float
    high: float
    level: float
    samples: int


def paired_randomization(
    reference: Sequence[float], changed: Sequence[float], *, samples: int = 10_000, seed: int = 0
) -> RandomizationTest:
    """Fisher's paired randomisation test of the mean change (Smucker, Allan & Carterette 2007), two-sided.

    Where a change means nothing, each query's difference could as well have the other sign. With up to 16
    differences that are not 0, every assignment of signs is tried; with more, `samples` are drawn, and the
    observed one counts among them (Phipson & Smyth 2010), so that no p-value is 0.

    Args:
        reference, changed: a metric of each query, in the same order.
        samples: how many assignments are drawn.
        seed: of the draws: the same seed gives the same p-value.
    """
    differences = _differences(reference, changed)
    mean = math.fsum(differences) / len(differences)
    moving = differences[differences != 0.0]
    # Sums of the same numbers in another order differ in their last bits; equal ones are meant to be equal.
    observed = abs(math.fsum(moving)) - 1e-12 * float(np.abs(moving).sum())
    if len(moving) <= _MOST_EXACT:
        sums = np.zeros(1)
        for difference in moving:
            sums = np.concatenate([sums + difference, sums - difference])
        p_value = float((np.abs(sums) >= observed).mean())
        return RandomizationTest(mean, p_value, True, len(sums), len(differences))
    _check_samples(samples)
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // len(moving))
    reached = 0
    for first in range(0, samples, rows):
        size = (min(rows, samples - first), len(moving))
        signs = generator.integers(0, 2, size, dtype=np.int8).astype(np.float64) * 2.0 - 1.0
        reached += int((np.abs(signs @ moving) >= observed).sum())
    return RandomizationTest(mean, (reached + 1) / (samples + 1), False, samples, len(differences))


def paired_bootstrap(
    reference: Sequence[float],
    changed: Sequence[float],
    *,
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the mean change, by drawing queries with replacement (Efron 1979).

    Args:
        reference, changed: a metric of each query, in the same order.
        level: how often such an interval should contain the true change, above 0 and below 1.
        samples: how many draws.
        seed: of the draws: the same seed gives the same interval.
    """
    if not 0.0 < level < 1.0:
        raise InputError(f"level is {level}; give a number between 0 and 1, as 0.95.")
    _check_samples(samples)
    differences = _differences(reference, changed)
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // len(differences))
    means = np.empty(samples)
    for first in range(0, samples, rows):
        size = (min(rows, samples - first), len(differences))
        drawn = generator.integers(0, len(differences), size)
        means[first : first + rows] = differences[drawn].mean(axis=1)
    low, high = np.quantile(means, ((1.0 - level) / 2.0, (1.0 + level) / 2.0))
    return Interval(math.fsum(differences) / len(differences), float(low), float(high), level, samples)


def _differences(reference: Sequence[float], changed: Sequence[float]) -> NDArray[Any]:
    """(pairs,) float64, changed - reference."""
    before, after = (np.asarray(side, dtype=np.float64) for side in (reference, changed))
    if before.ndim != 1 or before.shape != after.shape or not len(before):
        raise InputError(
            f"A paired test needs one number a query on both sides, not {before.shape} and {after.shape}."
        )
    bad = ~(np.isfinite(before) & np.isfinite(after))
    if bad.any():
        query = int(bad.argmax())
        raise InputError(
            f"query {query} has the values {before[query]:g} and {after[query]:g}; a test needs finite ones. "
            "Leave out queries that have no value."
        )
    return np.asarray(after - before)


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise InputError(f"samples is {samples}; give at least 1 (10,000 is usual).")
