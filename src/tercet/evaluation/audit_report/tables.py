"""The tables about schemes: what each costs, every metric, every further measure, ways to store vectors."""

from __future__ import annotations

__all__ = ["measures_table", "metrics_table", "schemes_table", "stored_table"]

from collections.abc import Sequence

from tercet.evaluation.audit_report import wording
from tercet.evaluation.audit_report.cost_pictures import stored_name
from tercet.evaluation.audit_report.markup import Cell, Column, Markup, element, joined, table
from tercet.evaluation.audit_report.schemes import SchemeView, View, head_title, metric_title
from tercet.evaluation.audit_result import AuditRow, MetricChange, StoredRow


def number(text: str, note: str = "", rows: int = 1) -> Cell:
    """A cell with a number."""
    return Cell(text, number=True, note=note, rows=rows)


def scheme_cell(scheme: SchemeView, rows: int) -> Cell:
    """The name of a scheme with its colour, its engine, and whether it is the verdict's."""
    row = scheme.any_row
    kept = (
        f" · {'layer' if len(row.float32_layers) == 1 else 'layers'} "
        f"{', '.join(map(str, row.float32_layers))} in float32"
        if row.float32_layers
        else ""
    )
    name = joined(
        element("span", {"class": "key", "style": f"--c:var(--{scheme.colour})"}),
        row.label,
        element("span", {"class": "engine"}, row.engine + kept),
        element("span", {"class": "badge"}, "verdict") if scheme.chosen else "",
    )
    return Cell(name, note="name", rows=rows, header=True)


def interval(change: MetricChange) -> str:
    """The ends of a change's interval: "[−0.0011, +0.0005]"."""
    low, high = (
        "0" if value == 0.0 else f"{value:+.4f}".replace("-", "−") for value in (change.low, change.high)
    )
    return f"[{low}, {high}]"


def schemes_table(view: View) -> Markup:
    """What each scheme costs, head by head."""
    judged = view.metric is not None
    columns = [Column("Scheme", number=False), Column("Head", number=False)]
    columns += [Column(f"Drift {name}", "1 − cos") for name in ("p50", "p99", "worst")]
    columns += [Column("Overlap@10", "of 1")]
    if judged:
        columns += [
            Column(metric_title(view.metric), "change, 95\N{NO-BREAK SPACE}%"),
            Column("p", "two-sided"),
        ]
    columns += [
        Column("Speed", "texts/s"),
        Column("Load", "seconds"),
        Column("Peak", "memory"),
        Column("Stored", "a text"),
    ]
    groups = []
    for scheme in view.schemes:
        if scheme.failure is not None:
            words = f"Does not run here: {scheme.failure}"
            failed = Cell(words, note="failed", columns=len(columns) - 1)
            groups.append([[scheme_cell(scheme, 1), failed]])
            continue
        rows = [scheme.rows[head] for head in view.heads if head in scheme.rows]
        group = []
        for place, row in enumerate(rows):
            cells = [scheme_cell(scheme, len(rows))] if place == 0 else []
            cells += [Cell(head_title(row.head), header=True), *_losses(view, row, len(columns))]
            if row.failure is None:
                cells += _costs(rows, place)
            group.append(cells)
        groups.append(group)
    unquiet = any(not row.quiet for row in view.result.rows)
    caption = (
        f"Each scheme against {_references(view)}; rankings and metrics against float32. "
        + ("† Others disturbed this timing; it decided nothing. " if unquiet else "")
        + "Below the speed: times float32’s. Stored: bytes of the head’s float32 output."
    )
    return table("schemes", "Schemes and heads.", caption, columns, groups, best=_best(view.schemes))


def _best(schemes: Sequence[SchemeView]) -> int | None:
    """The place of the verdict's."""
    return next((place for place, scheme in enumerate(schemes) if scheme.chosen), None)


def _references(view: View) -> str:
    found = sorted({row.drift_reference for row in view.result.rows if row.drift_worst is not None})
    return " or ".join(found) or "the reference"


def _losses(view: View, row: AuditRow, columns: int) -> list[Cell]:
    """What one head loses."""
    if row.failure is not None:
        return [Cell(f"Does not run here: {row.failure}", note="failed", columns=columns - 2)]
    cells = [number(wording.drift(value)) for value in (row.drift_p50, row.drift_p99, row.drift_worst)]
    cells.append(number(wording.share(row.overlap_at_10)))
    if view.metric is not None:
        change = view.change(row)
        cells += (
            [number(wording.DASH, "quiet") for _ in range(2)]
            if change is None
            else [
                number(_with_below(wording.signed(change.change), interval(change))),
                number(wording.p_value(change.p_value)),
            ]
        )
    return cells


def _with_below(text: str, below: str) -> Markup:
    return joined(text, element("span", {"class": "below"}, below))


def _costs(rows: list[AuditRow], place: int) -> list[Cell]:
    """What a scheme costs, told once where all its heads run together."""
    row = rows[place]
    same = len({(one.texts_per_second, one.load_seconds, one.peak_bytes, one.failure) for one in rows}) == 1
    cells = []
    if place == 0 or not same:
        span = len(rows) if same else 1
        mark = "" if row.quiet or row.texts_per_second is None else " †"
        cells = [
            number(
                _with_below(wording.rate(row.texts_per_second) + mark, wording.times(row.relative_speed)),
                rows=span,
            ),
            number(wording.DASH if row.load_seconds is None else f"{row.load_seconds:.2f}", rows=span),
            number(wording.size(row.peak_bytes), rows=span),
        ]
    return [*cells, number(wording.size(row.bytes_per_text))]


def metrics_table(view: View) -> Markup | None:
    """Every metric of every scheme and head; None where nothing is judged."""
    groups = []
    shown = []
    for scheme in view.running:
        rows = [row for row in scheme.rows.values() if row.metrics]
        lines = [(row, metric) for row in rows for metric in row.metrics]
        group = []
        for place, (row, metric) in enumerate(lines):
            cells = [scheme_cell(scheme, len(lines))] if place == 0 else []
            if metric is row.metrics[0]:
                cells.append(Cell(head_title(row.head), rows=len(row.metrics), header=True))
            cells += [
                Cell(metric_title(metric.name), header=True),
                number(wording.share(metric.value)),
                number(wording.share(metric.reference), "quiet"),
                number(wording.signed(metric.change)),
                number(interval(metric), "quiet"),
                number(wording.p_value(metric.p_value)),
                number(wording.count(metric.queries), "quiet"),
            ]
            group.append(cells)
        if group:
            groups.append(group)
            shown.append(scheme)
    if not groups:
        return None
    columns = [Column(name, number=False) for name in ("Scheme", "Head", "Metric")]
    columns += [
        Column("Value", "mean"),
        Column("float32", "mean"),
        Column("Change"),
        Column("95 % interval", "of the change"),
        Column("p", "two-sided"),
        Column("Queries"),
    ]
    return table("metrics", "Metrics.", "Against the given judgements.", columns, groups, best=_best(shown))


def measures_table(view: View) -> Markup:
    """Every further measure of every scheme and head."""
    sparse = any(row.sparse_weight_error_mean is not None for row in view.result.rows)
    columns = [
        Column("Scheme", number=False),
        Column("Head", number=False),
        Column("Drift mean", "1 − cos"),
        Column("Texts", "compared"),
        Column("Norm error", "mean"),
        Column("Norm error", "worst"),
        Column("RBO", "p = 0.9"),
        Column("Kendall’s τ", "τ-b"),
        Column("Ties", "made"),
        Column("Ties", "broken"),
        Column("Rankings", "compared"),
    ]
    if sparse:
        columns += [
            Column("Weight error", "mean"),
            Column("Weight error", "worst"),
            Column("Tokens", "gained"),
            Column("Tokens", "lost"),
        ]
    columns += [Column("Tokens/s"), Column("Recomputed", "texts")]
    groups = []
    for scheme in view.running:
        rows = [row for row in scheme.rows.values() if row.failure is None]
        group = []
        for place, row in enumerate(rows):
            by = "" if row.ranked_by == "queries" or not row.ranked_queries else f" {row.ranked_by}"
            cells = [scheme_cell(scheme, len(rows))] if place == 0 else []
            cells += [
                Cell(head_title(row.head), header=True),
                number(wording.drift(row.drift_mean)),
                number(wording.count(row.drift_texts)),
                number(wording.drift(row.norm_error_mean)),
                number(wording.drift(row.norm_error_worst)),
                number(wording.share(row.rank_biased_overlap)),
                number(wording.share(row.kendall_tau)),
                number(wording.count(row.ties_created)),
                number(wording.count(row.ties_broken)),
                number(wording.count(row.ranked_queries) + by),
            ]
            if sparse:
                cells += [
                    number(wording.drift(row.sparse_weight_error_mean)),
                    number(wording.drift(row.sparse_weight_error_worst)),
                    number(wording.count(row.tokens_gained)),
                    number(wording.count(row.tokens_lost)),
                ]
            cells += [number(wording.rate(row.tokens_per_second)), number(wording.count(row.recomputed))]
            group.append(cells)
        groups.append(group)
    return table(
        "measures", "Measures.", "Of each scheme and head.", columns, groups, best=_best(view.running)
    )


def stored_table(view: View) -> Markup | None:
    """Ways to store vectors, with and without rescoring; None where none was tried."""
    if not view.result.stored:
        return None
    metrics = list(dict.fromkeys(metric.name for row in view.result.stored for metric in row.metrics))
    columns = [
        Column("Head", number=False),
        Column("Stored as", number=False),
        Column("Rescored", number=False),
        Column("Size", "a text"),
        Column("Overlap@10", "of 1"),
        Column("RBO", "p = 0.9"),
    ]
    for name in metrics:
        columns += [Column(metric_title(name), "change"), Column("95 % interval"), Column("p", "two-sided")]
    clipped = any(row.clipped for row in view.result.stored)
    columns += [Column("Clipped", "values")] if clipped else []
    groups: dict[tuple[str, str], list[StoredRow]] = {}
    heads = list(dict.fromkeys(row.head for row in view.result.stored))
    for row in sorted(view.result.stored, key=lambda row: heads.index(row.head)):
        groups.setdefault((row.head, stored_name(row)), []).append(row)
    return table(
        "stored-vectors",
        "Ways to store.",
        "float32’s vectors stored in fewer bytes, against the rankings of the whole vectors.",
        columns,
        [
            [_stored(row, len(rows) if place == 0 else 0, metrics, clipped) for place, row in enumerate(rows)]
            for rows in groups.values()
        ],
    )


def _stored(row: StoredRow, span: int, metrics: list[str], clipped: bool) -> list[Cell]:
    """One row; its form is told in the first of `span` rows."""
    cells = (
        [
            Cell(head_title(row.head), rows=span, header=True),
            Cell(stored_name(row), rows=span, header=True, note="name"),
        ]
        if span
        else []
    )
    cells += [
        Cell("yes" if row.rescored else "no"),
        number(wording.size(row.bytes_per_text)),
        number(wording.share(row.overlap_at_10)),
        number(wording.share(row.rank_biased_overlap)),
    ]
    for name in metrics:
        change = next((metric for metric in row.metrics if metric.name == name), None)
        cells += [
            number(wording.DASH if change is None else wording.signed(change.change)),
            number(wording.DASH if change is None else interval(change), "quiet"),
            number(wording.DASH if change is None else wording.p_value(change.p_value)),
        ]
    return [*cells, number(wording.count(row.clipped))] if clipped else cells
