"""The tables of where it goes wrong: layers, tensors, texts, rankings."""

from __future__ import annotations

__all__ = ["layers_table", "rankings_table", "tensors_table", "texts_table"]

from collections.abc import Callable, Sequence
from itertools import groupby

from tercet.evaluation.audit_report import wording
from tercet.evaluation.audit_report.markup import Cell, Column, Markup, element, table
from tercet.evaluation.audit_report.schemes import View, head_title
from tercet.evaluation.audit_report.tables import number, scheme_cell
from tercet.evaluation.audit_result import AuditRow, LayerRow, RankChange, TensorRow

_MOST_TENSORS = 40
_MOST_TEXTS, _MOST_TEXTS_OF_HEADS = 3, 2


def layers_table(view: View) -> Markup | None:
    """Each layer's drift and largest activation; None where layers were not looked at."""
    layers = view.result.layers
    if not layers:
        return None
    labels = list(dict.fromkeys(label for layer in layers for label in layer.drift))
    columns = [
        Column("Layer", number=False),
        Column("Largest", "activation"),
        Column("Seen in", number=False),
        Column("What that means", number=False),
    ]
    columns += [Column(label, "own drift") for label in labels]
    columns += [Column(label, "up to here") for label in labels]
    return table(
        "layer-by-layer",
        "Layers.",
        "Own drift: what a layer adds to its hidden states by itself; up to here: what has come together.",
        columns,
        [[_layer(layer, labels) for layer in layers]],
    )


def _layer(layer: LayerRow, labels: list[str]) -> list[Cell]:
    cells = [
        Cell(layer.layer, note="name", header=True),
        number(wording.magnitude(layer.largest), "failed" if layer.unsafe else ""),
        Cell(layer.where, note="name quiet"),
        Cell(layer.sentence, note="wide failed" if layer.unsafe else "wide"),
    ]
    for label in labels:
        lost = layer.lost.get(label, 0)
        words = wording.drift(layer.drift.get(label))
        cells.append(
            number(f"{words}, {wording.count(lost)} lost" if lost else words, "failed" if lost else "")
        )
    return cells + [number(wording.drift(layer.total_drift.get(label))) for label in labels]


def tensors_table(view: View) -> Markup | None:
    """The tensors that lose most, format by format; None where none loses anything."""
    tensors = sorted(
        view.result.tensors,
        key=lambda row: (row.format, -row.overflow, -row.zeroed, -row.imprecise, row.name),
    )
    if not tensors:
        return None
    # Of each format as many, so that one with many tensors leaves the others their place.
    formats = [list(rows) for _, rows in groupby(tensors, key=lambda row: row.format)]
    most = max(1, _MOST_TENSORS // len(formats))
    shown = [rows[:most] for rows in formats]
    left = len(tensors) - sum(map(len, shown))
    columns = [
        Column("Format", number=False),
        Column("Tensor", number=False),
        Column("Shape", number=False),
        Column("Weights"),
        Column("Overflow", "weights"),
        Column("Zeroed", "weights"),
        Column("Imprecise", "weights"),
        Column("Worst error", "relative"),
        Column("Largest", "magnitude"),
    ]
    rest = f" {wording.count(left)} more that lose less are in the JSON." if left else ""
    caption = f"Weights that lose something when they are rounded to a format, counted from the file.{rest}"
    return table(
        "tensors", "Tensors.", caption, columns, [[_tensor(row, rows) for row in rows] for rows in shown]
    )


def _tensor(row: TensorRow, rows: list[TensorRow]) -> list[Cell]:
    first = [Cell(row.format, rows=len(rows), header=True)] if row is rows[0] else []
    return [
        *first,
        Cell(row.name, note="wide", header=True),
        Cell(" × ".join(map(str, row.shape)) or "scalar", note="quiet"),
        number(wording.count(row.numbers)),
        number(wording.count(row.overflow), "failed" if row.overflow else ""),
        number(wording.count(row.zeroed)),
        number(wording.count(row.imprecise)),
        number(wording.magnitude(row.worst_error)),
        number(wording.magnitude(row.largest)),
    ]


def texts_table(view: View) -> Markup | None:
    """The texts that drift most in each scheme and head, by their beginning; None where none was measured."""
    most = _MOST_TEXTS if len(view.heads) == 1 else _MOST_TEXTS_OF_HEADS
    columns = [Column("Drift", "1 − cos"), Column("Text", number=False), Column("It begins", number=False)]

    def lines(row: AuditRow) -> list[list[Cell]]:
        return [
            [
                number(wording.drift(text.drift)),
                Cell(element("code", {}, wording.excerpt(text.id, 60)), note="name"),
                Cell(wording.excerpt(text.text), note="wide"),
            ]
            for text in row.worst_texts[:most]
        ]

    return _by_scheme(view, "worst-texts", "Texts.", "Those whose vectors drift most.", columns, lines)


def rankings_table(view: View) -> Markup | None:
    """The queries whose rankings change most, document by document; None where none was kept."""
    columns = [
        Column("Query", number=False),
        Column("RBO", "p = 0.9"),
        Column("Documents that move", "rank before → rank after", number=False),
    ]

    def lines(row: AuditRow) -> list[list[Cell]]:
        return [
            [
                Cell(element("code", {}, wording.excerpt(change.query, 60)), note="name"),
                number(wording.share(change.rank_biased_overlap)),
                Cell(_moves(change), note="wide"),
            ]
            for change in row.rank_changes
        ]

    caption = "The queries whose first ten documents change most."
    return _by_scheme(view, "rankings", "Rankings.", caption, columns, lines)


def _by_scheme(
    view: View,
    name: str,
    title: str,
    caption: str,
    columns: Sequence[Column],
    lines: Callable[[AuditRow], Sequence[Sequence[Cell]]],
) -> Markup | None:
    """A table of what `lines` finds in the rows of each scheme, beside scheme and head; None for nothing."""
    groups = []
    for scheme in view.running:
        found = [(row.head, line) for row in scheme.rows.values() for line in lines(row)]
        if found:
            first = [scheme_cell(scheme, len(found))]
            groups.append(
                [
                    [*(first if place == 0 else []), Cell(head_title(head)), *line]
                    for place, (head, line) in enumerate(found)
                ]
            )
    if not groups:
        return None
    names = [Column("Scheme", number=False), Column("Head", number=False)]
    return table(name, title, caption, [*names, *columns], groups)


def _moves(change: RankChange) -> str:
    """What moves, as "doc7 3 → 4, doc9 9 → out"."""
    moves = [
        f"{wording.excerpt(name, 40)} {before or 'out'} → {after or 'out'}"
        for name, before, after in change.documents
        if before != after
    ]
    return ", ".join(moves) or "none"
