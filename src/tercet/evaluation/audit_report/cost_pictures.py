"""Pictures of what a precision costs and saves: speed, memory, bytes of stored vectors."""

from __future__ import annotations

__all__ = ["memory_picture", "speed_picture", "stored_name", "stored_picture"]

import math
from typing import TYPE_CHECKING

from tercet.evaluation.audit_report import wording
from tercet.evaluation.audit_report.axes import LogScale, frame, panels, row_labels
from tercet.evaluation.audit_report.canvas import Picture, text_width, to_svg
from tercet.evaluation.audit_report.palette import sentinel
from tercet.evaluation.audit_report.placing import Box, apart, place_labels
from tercet.evaluation.audit_report.schemes import SchemeView, View, head_title
from tercet.evaluation.audit_result import StoredRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MEASURES = {"worst": "largest drift", "mean": "mean drift", "p99": "99th percentile of drift"}
_LABEL_POINTS = 8.0
# Inches of a label's line, and half of a mark's width.
_LINE, _MARK = 0.145, 0.09
_STORED_COLOURS = {"dense": "s0", "sparse": "s2", "multivector": "s3"}


def speed_picture(view: View) -> Picture | None:
    """Texts a second against drift; None where both are known of less than two schemes."""
    measure, limit = view.drift_bound
    with_points = (
        head for head in view.heads if any(_point(scheme, head, measure) for scheme in view.running)
    )
    head = next(with_points, None)
    if head is None:
        return None
    points = [(scheme, *found) for scheme in view.running if (found := _point(scheme, head, measure))]
    if len(points) < 2:
        return None
    scale = LogScale.of([drift for _, drift, _ in points] + ([limit] if limit else []))
    fastest = max(speed for _, _, speed in points)

    def draw() -> Figure:
        figure, (axes,) = panels(1, height=3.3, title=[""], share_rows=False)
        for scheme, drift, speed in points:
            axes.plot(
                scale.at(drift), speed, marker=scheme.marker, markersize=7.5, color=sentinel(scheme.colour)
            )
            if scheme.chosen:
                axes.plot(
                    scale.at(drift), speed, marker="o", markersize=12.5, fillstyle="none",
                    color=sentinel(scheme.colour), markeredgewidth=1.1,
                )  # fmt: skip
        if limit:
            axes.axvline(scale.at(limit), color=sentinel("bad"), linewidth=1.2, linestyle=(0, (4, 2)))
        scale.horizontal(axes)
        axes.set_ylim(0.0, fastest * 1.16)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}" if value < 1000 else f"{value:,.0f}")
        axes.grid(axis="both")
        frame(axes, "y", spines=True)
        axes.set_xlabel(f"{_MEASURES[measure]}, 1 − cosine")
        axes.set_ylabel("texts a second")
        _label(
            figure,
            axes,
            [(scheme, scale.at(drift), speed) for scheme, drift, speed in points],
            scale.at(limit) if limit else None,
        )
        return figure

    title = f"Speed against drift, {head_title(head).lower()}"
    caption = (
        "Higher is faster, further left is closer to the reference. "
        + ("The ringed mark is the verdict. " if any(scheme.chosen for scheme, _, _ in points) else "")
        + (f"The dashed line is the budget, {wording.drift(limit)}." if limit else "")
    )
    words = " ".join(
        f"{scheme.short}: {wording.rate(speed)} texts a second, {_MEASURES[measure]} {wording.drift(drift)}."
        for scheme, drift, speed in points
    )
    return Picture("speed", title, caption.strip(), words, to_svg("speed", title, words, draw))


def _point(scheme: SchemeView, head: str, measure: str) -> tuple[float, float] | None:
    row = scheme.rows.get(head)
    if row is None:
        return None
    drift = {"worst": row.drift_worst, "mean": row.drift_mean, "p99": row.drift_p99}[measure]
    speed = row.texts_per_second
    if drift is None or speed is None or not math.isfinite(drift) or not math.isfinite(speed):
        return None
    return drift, speed


def _label(
    figure: Figure, axes: Axes, points: Sequence[tuple[SchemeView, float, float]], line: float | None
) -> None:
    """Names beside the marks and off the budget's line; without room in a column, with lines to the marks."""
    figure.draw_without_rendering()  # so that the axes have their place
    # What they have is final: labels must not move them again.
    figure.set_layout_engine("none")
    box = axes.get_window_extent()
    inch = figure.dpi
    places = [tuple(axes.transData.transform((x, y)) / inch) for _, x, y in points]
    names = [scheme.short for scheme, _, _ in points]
    sizes = [
        (text_width(scheme.short, _LABEL_POINTS, bold=scheme.chosen) + 0.04, _LINE) for scheme, _, _ in points
    ]
    room = Box(box.x0 / inch, box.y0 / inch + 0.03, box.width / inch, box.height / inch)
    avoid = []
    if line is not None:
        middle = float(axes.transData.transform((line, 0.0))[0]) / inch
        avoid.append(Box(middle - 0.02, room.bottom, 0.04, room.height))
    found = place_labels([(float(x), float(y)) for x, y in places], sizes, room, _MARK, avoid)
    if found is None:
        heights = apart([float(y) for _, y in places], _LINE * 1.25)
        # As a block inside of the axes: with so many schemes it is as high as they are.
        over = max(0.0, max(heights) + _LINE / 2 - (room.bottom + room.height))
        left = room.left + room.width - max(width for width, _ in sizes)
        found = [
            Box(left, height - over - _LINE / 2, width, _LINE)
            for height, (width, _) in zip(heights, sizes, strict=True)
        ]
        axes.set_xlim(axes.get_xlim()[0], _beyond(axes, left, room))
        places = [tuple(axes.transData.transform((x, y)) / inch) for _, x, y in points]
    back = axes.transData.inverted()
    for (scheme, x, y), name, label, place in zip(points, names, found, places, strict=True):
        at = back.transform((label.left * inch, (label.bottom + label.height / 2) * inch))
        axes.text(
            at[0], at[1], name, fontsize=_LABEL_POINTS, va="center", ha="left", clip_on=False,
            fontweight="bold" if scheme.chosen else "normal",
        )  # fmt: skip
        center, height = label.left + label.width / 2, label.bottom + label.height / 2
        if math.hypot(max(0.0, abs(center - place[0]) - label.width / 2), height - place[1]) > 0.22:
            start = label.left if center > place[0] else label.left + label.width
            end = back.transform((start * inch, height * inch))
            axes.plot([x, end[0]], [y, end[1]], color=sentinel(scheme.colour), linewidth=0.7, zorder=1)


def _beyond(axes: Axes, left: float, room: Box) -> float:
    """The axis' right end that leaves everything so far left of the column."""
    low, high = axes.get_xlim()
    used = (left - 0.25 - room.left) / room.width
    return float(low + (high - low) / max(used, 0.2))


def memory_picture(view: View) -> Picture | None:
    """Load seconds and peak memory as bars; None where neither is known."""
    schemes = [
        scheme
        for scheme in view.running
        if scheme.any_row.peak_bytes is not None or scheme.any_row.load_seconds is not None
    ]
    if not schemes:
        return None
    peaks = [scheme.any_row.peak_bytes for scheme in schemes]
    loads = [scheme.any_row.load_seconds for scheme in schemes]
    colours = [scheme.colour for scheme in schemes]

    def draw() -> Figure:
        figure, every = panels(
            2,
            height=0.45 + 0.34 * len(schemes),
            title=["Peak memory", "Time to load"],
            share_rows=True,
            width=8.2 if len(view.heads) == 1 else 5.4,
        )
        for axes in every:
            row_labels(axes, schemes, above=0.5)
        _bars(every[0], peaks, [wording.size(value) for value in peaks], colours)
        _bars(every[1], loads, [wording.seconds(value) for value in loads], colours)
        return figure

    title = "Memory and time to load"
    caption = (
        "Most memory that the process of each scheme had resident, and seconds from a fresh process to a "
        "model that is ready. Shorter is better."
    )
    words = " ".join(
        f"{scheme.short}: {wording.size(scheme.any_row.peak_bytes)}, "
        f"{wording.seconds(scheme.any_row.load_seconds)}."
        for scheme in schemes
    )
    return Picture("memory", title, caption, words, to_svg("memory", title, words, draw))


def _bars(axes: Axes, values: Sequence[float | None], words: Sequence[str], colours: Sequence[str]) -> None:
    """A bar a row with its number behind it."""
    most = max((value for value in values if value is not None), default=1.0) or 1.0
    for place, (value, word, colour) in enumerate(zip(values, words, colours, strict=True)):
        axes.barh(place, value or 0.0, height=0.6, color=sentinel(colour), linewidth=0)
        axes.text((value or 0.0) + most * 0.02, place, word, va="center", fontsize=8)
    axes.set_xlim(0.0, most * 1.32)
    axes.set_xticks([])
    frame(axes, "x")


def stored_name(row: StoredRow) -> str:
    """What is stored, without whether it was rescored: "int8, 256 dim, 1 in 2 rows"."""
    pooled = f", 1 in {row.pool_factor:g} rows" if row.pool_factor != 1 else ""
    kept = f", {row.dimensions:,} dim" if row.dimensions else ""
    return f"{row.precision}{kept}{pooled}"


def stored_picture(view: View) -> Picture | None:
    """Bytes of a stored text and the overlap that is left; None where no storing was tried."""
    forms: dict[tuple[str, str], dict[bool, StoredRow]] = {}
    for row in view.result.stored:
        forms.setdefault((row.head, stored_name(row)), {})[row.rescored] = row
    if not forms:
        return None
    heads_in_order = list(dict.fromkeys(row.head for row in view.result.stored))
    order = sorted(forms, key=lambda form: (heads_in_order.index(form[0]), -_any(forms[form]).bytes_per_text))
    overlaps = [row.overlap_at_10 for form in forms.values() for row in form.values()]

    def draw() -> Figure:
        figure, (left, right) = panels(
            2, height=0.95 + 0.27 * len(order), title=["Bytes a text", "Overlap@10"], share_rows=True
        )
        names = [
            wording.excerpt(f"{head_title(head)}, {name}" if len(heads_in_order) > 1 else name, 48)
            for head, name in order
        ]
        rows = [_any(forms[form]) for form in order]
        most = {head: max(row.bytes_per_text for row in rows if row.head == head) for head in heads_in_order}
        _bars(
            left,
            [row.bytes_per_text / (most[row.head] or 1.0) for row in rows],
            [wording.size(row.bytes_per_text) for row in rows],
            [_STORED_COLOURS.get(row.head, "s6") for row in rows],
        )
        left.set_yticks(range(len(order)), names)
        left.set_ylim(len(order) - 0.4, -0.6)
        for place, form in enumerate(order):
            _dumbbell(right, place, forms[form], _STORED_COLOURS.get(form[0], "s6"))
        low = min(overlaps)
        right.set_xlim(low - (1.0 - low) * 0.08 - 0.002, 1.0 + (1.0 - low) * 0.05 + 0.001)
        right.locator_params(axis="x", nbins=5)
        frame(right, "x")
        right.set_xlabel("rings: as stored · dots: rescored")
        return figure

    title = "Stored vectors: bytes against overlap"
    caption = (
        "Each row is a way to store vectors; bars compare those of the same head. Rings: the documents "
        "that a search of the stored vectors alone "
        "finds again; dots: after the best forty were scored again by the query’s full vector."
    )
    words = " ".join(
        f"{head}, {name}: {wording.size(row.bytes_per_text)}, overlap {wording.share(row.overlap_at_10)}"
        f"{', rescored' if row.rescored else ''}."
        for head, name in order
        for row in forms[head, name].values()
    )
    return Picture("stored", title, caption, words, to_svg("stored", title, words, draw))


def _any(form: dict[bool, StoredRow]) -> StoredRow:
    return next(iter(form.values()))


def _dumbbell(axes: Axes, place: int, form: dict[bool, StoredRow], colour: str) -> None:
    """A ring as stored, a dot rescored, a line between."""
    paint = sentinel(colour)
    axes.plot([row.overlap_at_10 for row in form.values()], [place] * len(form), color=paint, linewidth=1.4)
    for rescored, row in sorted(form.items(), reverse=True):
        axes.plot(
            row.overlap_at_10, place, marker="o", color=paint, markersize=6 if not rescored else 5,
            markerfacecolor=paint if rescored else sentinel("paper"), zorder=3,
        )  # fmt: skip
