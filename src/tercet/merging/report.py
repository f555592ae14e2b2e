"""What rounding cost: of each tensor and of all, against the result before it was rounded."""

from __future__ import annotations

__all__ = ["MergeReport", "TensorReport"]

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TensorReport:
    """One tensor as it was written.

    Attributes:
        name: with its part: "2_Dense.linear.weight".
        dtype: as written.
        numbers: how many it has.
        squares: of the exact result, summed up.
        delta_squares: of what the exact result adds to the base, or to the first model where there is none.
        error_squares: of the written minus the exact result.
        overflowed: finite results that `dtype` cannot hold, written as its largest number.
        flushed: results that are not zero and were written as zero.
        on_threshold: entries exactly where a method chooses between them (ties, breadcrumbs, sce,
            arcee_fusion), so that only their place decides which of them are kept.
        copied: whether it was copied from one model, unchanged.
    """

    name: str
    dtype: str
    numbers: int
    squares: float = 0.0
    delta_squares: float = 0.0
    error_squares: float = 0.0
    overflowed: int = 0
    flushed: int = 0
    on_threshold: int = 0
    copied: bool = False

    @property
    def relative_error(self) -> float:
        """Length of the error by the length of the exact result; 0 where both are."""
        return _part(self.error_squares, self.squares)

    @property
    def delta_error(self) -> float:
        """Length of the error by the length of what was changed; 0 without an error, inf without a change."""
        return _part(self.error_squares, self.delta_squares)

    def to_json(self) -> dict[str, Any]:
        """For reports: errors instead of sums of squares."""
        shown = {key: value for key, value in asdict(self).items() if not key.endswith("squares")}
        return {
            **shown,
            "relative_error": _number(self.relative_error),
            "delta_error": _number(self.delta_error),
        }


@dataclass(frozen=True, slots=True)
class MergeReport:
    """All tensors of a merge."""

    tensors: tuple[TensorReport, ...]
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> TensorReport:
        """All of them as one."""
        dtypes = sorted({one.dtype for one in self.tensors if not one.copied})
        return TensorReport(
            "all",
            ", ".join(dtypes),
            sum(one.numbers for one in self.tensors),
            math.fsum(one.squares for one in self.tensors),
            math.fsum(one.delta_squares for one in self.tensors),
            math.fsum(one.error_squares for one in self.tensors),
            sum(one.overflowed for one in self.tensors),
            sum(one.flushed for one in self.tensors),
            sum(one.on_threshold for one in self.tensors),
        )

    def worst(self, count: int = 5) -> Iterable[TensorReport]:
        """The tensors with the largest delta error, the worst first.

        One in which nothing was changed has no such error, however it was rounded: those come last, by their
        relative error.
        """

        def order(one: TensorReport) -> tuple[bool, float, str]:
            unchanged = math.isinf(one.delta_error)
            return unchanged, -(one.relative_error if unchanged else one.delta_error), one.name

        return sorted((one for one in self.tensors if not one.copied), key=order)[:count]

    def to_json(self) -> dict[str, Any]:
        """For merge_report.json."""
        return {
            "all": self.total.to_json(),
            "tensors": [one.to_json() for one in self.tensors],
            "notes": list(self.notes),
        }


def _part(error: float, whole: float) -> float:
    if error == 0:
        return 0.0
    return math.sqrt(error / whole) if whole > 0 else math.inf


def _number(value: float) -> float | None:
    """JSON has no infinity: where nothing was changed there is no delta error."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
