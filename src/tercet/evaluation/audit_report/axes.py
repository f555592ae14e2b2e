"""Axes as every picture has them: powers of ten with a place for 0, rows of schemes, quiet grids, legends."""

from __future__ import annotations

__all__ = ["LogScale", "frame", "legend", "panels", "row_labels"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tercet.evaluation.audit_report.canvas import new_figure
from tercet.evaluation.audit_report.palette import sentinel
from tercet.evaluation.audit_report.schemes import SchemeView
from tercet.evaluation.audit_report.wording import power
from tercet.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_TICKS, _MOST_POWERS = 4, 8


@dataclass(frozen=True, slots=True)
class LogScale:
    """Powers of ten from `low` to `high`, and left of them, where it is needed, a place for what is less.

    Attributes:
        low, high: exponents of ten.
        below: the word for what lies left of `low`: "0", or "<10⁻¹¹"; empty where nothing does.
    """

    low: int
    high: int
    below: str

    @classmethod
    def of(cls, values: Sequence[float]) -> LogScale:
        """One of at most eight powers for all of them; of none above 0, a short one around 10⁻⁶."""
        positive = [value for value in values if 0.0 < value < math.inf]
        low = math.floor(math.log10(min(positive))) if positive else -7
        high = max(math.ceil(math.log10(max(positive))) if positive else -5, low + 1)
        if high - low > _MOST_POWERS:
            # Rounding of float64 lies ten powers below everything else: how far is of no use to anyone.
            low = high - _MOST_POWERS
            return cls(low, high, f"<{power(low)}")
        return cls(low, high, "0" if any(value == 0.0 for value in values) else "")

    @property
    def step(self) -> int:
        """Powers of ten from one tick to the next."""
        return max(1, math.ceil((self.high - self.low) / _MOST_TICKS))

    @property
    def below_at(self) -> float:
        """Where what is less than all powers lies."""
        return self.low - max(0.5, (self.high - self.low) * 0.12)

    def at(self, value: float) -> float:
        """The place of a number that is not below 0."""
        place = math.log10(value) if value > 0.0 else -math.inf
        return place if place >= self.low else self.below_at

    def horizontal(self, axes: Axes) -> None:
        """Makes it the axis below."""
        margin = (self.high - self.low) * 0.03
        axes.set_xlim(self.below_at - margin * 2 if self.below else self.low - margin, self.high + margin)
        places, words = self._ticks()
        axes.set_xticks(places, words)

    def vertical(self, axes: Axes) -> None:
        """Makes it the axis on the left."""
        margin = (self.high - self.low) * 0.04
        axes.set_ylim(self.below_at - margin * 2 if self.below else self.low - margin, self.high + margin)
        places, words = self._ticks()
        axes.set_yticks(places, words)

    def _ticks(self) -> tuple[list[float], list[str]]:
        exponents = list(range(self.high, self.low - 1, -self.step))[::-1]
        if self.below and len(exponents) > 1 and exponents[0] == self.low:
            exponents = exponents[1:]  # its words would lie on those of what is less
        places = [float(exponent) for exponent in exponents]
        words = ["1" if not exponent else power(exponent) for exponent in exponents]
        return ([self.below_at, *places], [self.below, *words]) if self.below else (places, words)


def panels(
    number: int, *, height: float, title: Sequence[str], share_rows: bool, width: float | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels side by side, each with its title.

    Args:
        number: how many.
        height: inches.
        title: of each panel; an empty one leaves its place.
        share_rows: whether all have the same rows, which are named on the left alone.
        width: inches; by default as many panels want.
    """
    figure = new_figure(width or {1: 5.4, 2: 8.2}.get(number, 10.4), height)
    found = figure.subplots(1, number, sharey=share_rows, squeeze=False)
    axes = list(found[0])
    for one, words in zip(axes, title, strict=True):
        if words:
            one.set_title(words, loc="left", fontsize=9, fontweight="bold", color=sentinel("ink"))
    return figure, axes


def frame(axes: Axes, grid: str, *, spines: bool = False) -> None:
    """A grid along one axis ("x", "y"), and no more lines than needed."""
    axes.grid(axis="x" if grid == "x" else "y")
    axes.tick_params(length=0)
    if not spines:
        for spine in axes.spines.values():
            spine.set_visible(False)


def row_labels(axes: Axes, schemes: Sequence[SchemeView], *, above: float = 0.75) -> None:
    """A row for each scheme from the top, behind `above` rows of air; the verdict's name is bold."""
    axes.set_yticks(range(len(schemes)), [scheme.short for scheme in schemes])
    axes.set_ylim(len(schemes) - 0.4, -above)
    # Of panels that share their rows, only the first has labels.
    for label, scheme in zip(axes.get_yticklabels(), schemes, strict=False):
        label.set_fontweight("bold" if scheme.chosen else "normal")


def legend(figure: Figure, schemes: Sequence[SchemeView], *, columns: int) -> None:
    """Colour, mark and name of each scheme above the panels."""
    lines = require("matplotlib.lines", extra="report", purpose="A report with pictures")
    marks = [
        lines.Line2D([], [], color=sentinel(scheme.colour), marker=scheme.marker, markersize=5, linewidth=1.6)
        for scheme in schemes
    ]
    figure.legend(
        marks,
        [scheme.short for scheme in schemes],
        loc="outside upper left",
        ncols=columns,
        fontsize=8,
        handlelength=1.8,
        columnspacing=1.4,
    )
