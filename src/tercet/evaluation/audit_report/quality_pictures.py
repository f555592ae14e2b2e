"""Pictures of what a precision does to vectors, rankings and metrics."""

from __future__ import annotations

__all__ = ["drift_picture", "metric_picture", "query_picture", "ranking_picture"]

import math
from typing import TYPE_CHECKING

from tercet.evaluation.audit_report import wording
from tercet.evaluation.audit_report.axes import LogScale, frame, legend, panels, row_labels
from tercet.evaluation.audit_report.canvas import Picture, new_figure, to_svg
from tercet.evaluation.audit_report.palette import sentinel
from tercet.evaluation.audit_report.schemes import SchemeView, View, head_title, metric_title
from tercet.evaluation.audit_result import AuditRow, MetricChange, RankChange

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_QUERIES = 4
_RANKS = 10


def drift_picture(view: View) -> Picture | None:
    """How drift is distributed over texts, a strip for each scheme; None where none was measured."""
    heads = [head for head in view.heads if any(_drifts(scheme, head) for scheme in view.running)]
    schemes = [scheme for scheme in view.running if any(_drifts(scheme, head) for head in heads)]
    if not heads:
        return None
    rows = [row for scheme in schemes for head in heads if (row := _drifts(scheme, head))]
    values = [
        value
        for row in rows
        for value in (row.drift_p50, row.drift_p99, row.drift_worst)
        if value is not None
    ]
    values += [bound for row in rows for low, high, n in row.drift_histogram if n for bound in (low, high)]
    scale = LogScale.of([value for value in values if math.isfinite(value)])

    def draw() -> Figure:
        titles = [head_title(head) for head in heads]
        figure, every = panels(len(heads), height=0.95 + 0.42 * len(schemes), title=titles, share_rows=True)
        for axes, head in zip(every, heads, strict=True):
            row_labels(axes, schemes)
            for place, scheme in enumerate(schemes):
                row = _drifts(scheme, head)
                if row is not None:
                    _strip(axes, scale, place, row, scheme.colour)
            scale.horizontal(axes)
            frame(axes, "x")
            axes.set_xlabel("drift, 1 − cosine")
        return figure

    worst = max(rows, key=lambda row: row.drift_worst or 0.0)
    title = "Drift of each text"
    caption = (
        "How many texts drift how far, on a logarithmic axis. The filled dot is the median, the ring the "
        "99th percentile, the bar the worst text. Further left is closer to the reference."
    )
    words = (
        f"The worst text of all drifts by {wording.drift(worst.drift_worst)}, in {worst.name}, {worst.head}. "
        + (
            " ".join(
                f"{scheme.short}, {row.head}: p50 {wording.drift(row.drift_p50)}, p99 "
                f"{wording.drift(row.drift_p99)}, "
                f"worst {wording.drift(row.drift_worst)}."
                for scheme in schemes
                for row in scheme.rows.values()
                if row.drift_worst is not None
            )
        )
    )
    return Picture("drift", title, caption, words, to_svg("drift", title, words, draw))


def _drifts(scheme: SchemeView, head: str) -> AuditRow | None:
    row = scheme.rows.get(head)
    return row if row is not None and row.drift_worst is not None else None


def _strip(axes: Axes, scale: LogScale, place: int, row: AuditRow, colour: str) -> None:
    """One row: the histogram above a line from the median to the worst."""
    paint = sentinel(colour)
    bars: dict[tuple[float, float], int] = {}
    for low, high, number in row.drift_histogram:
        left, right = scale.at(low), scale.at(high)
        if right == scale.below_at:  # all that the axis does not reach is one bar
            left, right = right - 0.15, right + 0.15
        bars[left, right] = bars.get((left, right), 0) + number
    most = max(bars.values(), default=0)
    for (left, right), number in bars.items():
        if not number:
            continue
        axes.fill_between(
            [left, right],
            place,
            place - 0.62 * number / most,
            color=paint,
            alpha=0.3,
            linewidth=0,
            step="mid",
        )
    p50, p99, worst = (scale.at(value or 0.0) for value in (row.drift_p50, row.drift_p99, row.drift_worst))
    axes.plot([p50, worst], [place, place], color=paint, linewidth=1.2)
    axes.plot(worst, place, marker="|", color=paint, markersize=9, markeredgewidth=1.6)
    axes.plot(p99, place, marker="o", color=paint, markersize=5, markerfacecolor=sentinel("paper"))
    axes.plot(p50, place, marker="o", color=paint, markersize=5)


def metric_picture(view: View) -> Picture | None:
    """The metric's change with its interval; None where nothing is judged."""
    heads = [head for head in view.heads if any(_changes(view, scheme, head) for scheme in view.running[1:])]
    schemes = [scheme for scheme in view.running[1:] if any(head in scheme.rows for head in heads)]
    if not heads:
        return None
    limit = view.metric_limit

    def draw() -> Figure:
        titles = [head_title(head) for head in heads]
        figure, every = panels(len(heads), height=0.95 + 0.36 * len(schemes), title=titles, share_rows=True)
        for axes, head in zip(every, heads, strict=True):
            row_labels(axes, schemes)
            axes.axvline(0.0, color=sentinel("muted"), linewidth=1)
            furthest = max(limit or 0.0, 1e-4)
            for place, scheme in enumerate(schemes):
                change = _changes(view, scheme, head)
                if change is None:
                    continue
                paint = sentinel(scheme.colour)
                axes.plot([change.low, change.high], [place, place], color=paint, linewidth=1.8)
                axes.plot(change.change, place, marker=scheme.marker, color=paint, markersize=6)
                furthest = max(furthest, abs(change.low), abs(change.high), abs(change.change))
            if limit is not None:
                axes.axvline(-limit, color=sentinel("bad"), linewidth=1.2, linestyle=(0, (4, 2)))
            axes.set_xlim(-furthest * 1.12, furthest * 1.12)
            axes.locator_params(axis="x", nbins=5)
            axes.xaxis.set_major_formatter(lambda value, _: wording.signed(value, 4).rstrip("0").rstrip("."))
            frame(axes, "x")
            axes.set_xlabel(f"change of {metric_title(view.metric)}")
        return figure

    title = f"Change of {metric_title(view.metric)}"
    caption = (
        f"Each mark is the mean change over the judged queries, its line the 95\N{NO-BREAK SPACE}% "
        f"interval. An interval that "
        f"holds 0 is no proof of a loss. {_limit_words(limit)}"
    )
    words = " ".join(
        f"{scheme.short}, {head}: {wording.signed(change.change)}, from {wording.signed(change.low)} to "
        f"{wording.signed(change.high)}."
        for scheme in schemes
        for head in heads
        if (change := _changes(view, scheme, head))
    )
    return Picture("metric", title, caption.strip(), words, to_svg("metric", title, words, draw))


def _changes(view: View, scheme: SchemeView, head: str) -> MetricChange | None:
    row = scheme.rows.get(head)
    return view.change(row) if row is not None else None


def _limit_words(limit: float | None) -> str:
    return "" if limit is None else f"The dashed line is the budget, −{limit:g}."


def ranking_picture(view: View) -> Picture | None:
    """How far rankings agree with the reference's, by three measures; None where none were compared."""
    heads = [head for head in view.heads if any(_agreement(scheme, head) for scheme in view.running[1:])]
    schemes = [scheme for scheme in view.running[1:] if any(_agreement(scheme, head) for head in heads)]
    if not heads:
        return None
    values = [
        value
        for scheme in schemes
        for head in heads
        for value in (_agreement(scheme, head) or ())
        if value is not None
    ]
    low = min(values)

    def draw() -> Figure:
        columns = {1: 3, 2: 4}.get(len(heads), 6)
        titles = [head_title(head) for head in heads]
        lines = math.ceil(len(schemes) / columns)
        figure, every = panels(len(heads), height=2.9 + 0.22 * lines, title=titles, share_rows=True)
        for axes, head in zip(every, heads, strict=True):
            for number, scheme in enumerate(schemes):
                points = [
                    (place, value)
                    for place, value in enumerate(_agreement(scheme, head) or ())
                    if value is not None
                ]
                axes.plot(
                    [place for place, _ in points],
                    [value for _, value in points],
                    color=sentinel(scheme.colour),
                    marker=scheme.marker,
                    # Lines that lie on each other are seen as the edges of the thinner one.
                    markersize=5.5 + 0.35 * (len(schemes) - 1 - number),
                    linewidth=1.5 + 0.35 * (len(schemes) - 1 - number),
                )
            axes.set_xticks(
                range(3), ["overlap", "RBO", "τ"] if len(heads) > 2 else ["overlap@10", "RBO", "Kendall’s τ"]
            )
            axes.set_xlim(-0.25, 2.25)
            room = max(1.0 - low, 1e-3)
            axes.set_ylim(1.0 - room * 1.1, 1.0 + room * 0.06)
            axes.locator_params(axis="y", nbins=6)
            frame(axes, "y")
        every[0].set_ylabel("agreement with float32’s rankings")
        legend(figure, schemes, columns=columns)
        return figure

    title = "How far rankings agree"
    caption = (
        "1 is the very same ranking. Overlap counts the first ten documents that stay, rank-biased overlap "
        "weighs the first ranks most, Kendall’s τ asks whether pairs keep their order."
    )
    words = " ".join(
        f"{scheme.short}, {head}: overlap {wording.share(row.overlap_at_10)}, rank-biased overlap "
        f"{wording.share(row.rank_biased_overlap)}, tau {wording.share(row.kendall_tau)}."
        for scheme in schemes
        for head in heads
        if (row := scheme.rows.get(head)) and _agreement(scheme, head)
    )
    return Picture("ranking", title, caption, words, to_svg("ranking", title, words, draw))


def _agreement(scheme: SchemeView, head: str) -> tuple[float | None, float | None, float | None] | None:
    row = scheme.rows.get(head)
    if row is None or row.overlap_at_10 is None:
        return None
    return row.overlap_at_10, row.rank_biased_overlap, row.kendall_tau


def query_picture(view: View) -> Picture | None:
    """The first ten documents of the query that changes most in each scheme, as slopes; None without any."""
    found = [
        (scheme, row.head, row.rank_changes[0])
        for scheme in view.running
        if (row := next((row for row in scheme.rows.values() if row.rank_changes), None))
    ]
    if not found:
        return None
    across = min(len(found), _QUERIES)
    down = math.ceil(len(found) / _QUERIES)

    def draw() -> Figure:
        figure = new_figure({1: 3.0, 2: 5.4, 3: 8.0}.get(across, 10.4), 2.9 * down)
        grid = figure.subplots(down, across, squeeze=False)
        for axes in grid.flat[len(found) :]:
            axes.set_visible(False)
        outside = any(
            rank is None for _, _, change in found for _, *ranks in change.documents for rank in ranks
        )
        for axes, (scheme, head, change) in zip(grid.flat, found, strict=False):
            _slopes(axes, scheme, change, outside)
            axes.set_title(
                f"{scheme.short}\n", loc="left", fontsize=9, fontweight="bold", color=sentinel("ink")
            )
            label = wording.excerpt(f"query {change.query}, {head_title(head).lower()}", 34)
            axes.text(0, 1.02, label, transform=axes.transAxes, fontsize=8, color=sentinel("muted"))
        return figure

    title = "Rankings that change most"
    caption = (
        "For each scheme, the query whose ranking changes most: ranks by float32 on the left, by the "
        "scheme on the right. Coloured lines are documents whose rank changes; those that end below the "
        "line leave the first ten, those that start there enter them."
    )
    words = " ".join(
        f"{scheme.short}, query {change.query}: {_moved(change)} of {len(change.documents)} documents change "
        f"their rank; rank-biased overlap {wording.share(change.rank_biased_overlap)}."
        for scheme, _, change in found
    )
    return Picture("queries", title, caption, words, to_svg("queries", title, words, draw))


def _moved(change: RankChange) -> int:
    return sum(before != after for _, before, after in change.documents)


def _slopes(axes: Axes, scheme: SchemeView, change: RankChange, outside: bool) -> None:
    """Ranks before and after; what is beyond the tenth lies below a line, where any picture has such."""
    beyond = _RANKS + 1.3
    for _, before, after in sorted(change.documents, key=lambda document: document[1] != document[2]):
        ends = [rank if rank is not None else beyond for rank in (before, after)]
        moved = before != after
        paint = sentinel(scheme.colour if moved else "reference")
        axes.plot(
            [0, 1],
            ends,
            color=paint,
            linewidth=1.7 if moved else 1.0,
            alpha=1.0 if moved else 0.55,
            marker="o",
            markersize=3.5 if moved else 2.5,
        )
    axes.set_yticks(range(1, _RANKS + 1))
    axes.set_ylim((beyond if outside else _RANKS) + 0.6, 0.4)
    if outside:
        axes.axhline(_RANKS + 0.65, color=sentinel("line"), linewidth=1)
    axes.set_xlim(-0.08, 1.08)
    axes.set_xticks([0, 1], ["float32", wording.excerpt(scheme.any_row.label, 18)])
    left, right = axes.get_xticklabels()
    left.set_horizontalalignment("left")
    right.set_horizontalalignment("right")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
