"""A comparison of two models as an SVG picture: kinds of tensors by layers, coloured by their change."""

from __future__ import annotations

__all__ = ["difference_picture"]

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from tercet.merging.difference import TensorDifference
from tercet.merging.names import before_layers, place_of

# Steps of one blue, from little to much. On the first five of them letters are in ink, on the others in the
# colour of paper, which can be read in light and in dark.
_LIGHT = ("#eaf2fb", "#cfe1f5", "#aacbec", "#7fb0e0", "#5593d1", "#2f6fb7", "#215aa0", "#14407c", "#0a2a56")
_DARK = ("#16293f", "#193857", "#1d4a73", "#235d8f", "#2a6da4", "#4a97d4", "#6fb1e6", "#a0cdf4", "#d6eafc")
_INK_STEPS = 5
_COLOURS = (
    {"paper": "#ffffff", "ink": "#1a1d21", "muted": "#59616b", "line": "#c3c9d0", "odd": "#b3261e"},
    {"paper": "#14171a", "ink": "#e8eaed", "muted": "#a3abb5", "line": "#454c55", "odd": "#ff9d94"},
)
_FONTS = (
    "text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}.t{font-size:15px;font-weight:650}"
    ".h{font-weight:650}.s{font-size:10.5px}"
    ".m{font:11px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace}"
    ".e{text-anchor:end}.c{text-anchor:middle}.on{font-size:10.5px;text-anchor:middle;pointer-events:none}"
)
# Pixels; a letter of 11 px that is as wide as all others takes 6.7.
_ROW, _CELL_HEIGHT, _MARGIN, _LETTER = 19, 17, 20, 6.7
_LEAST_CELL, _MOST_CELL, _GRID, _RANGE = 11, 60, 640, 128
_WITH_NUMBER = 46
_SWATCH = 58
_MOST_NAME, _MOST_TITLE = 46, 90
# What a tensor shows that has no colour, and what that means.
_MARKS = {"same": "", "only first": "A", "only second": "B", "shape": "≠"}
_FROM_ZERO = "0"
_MEANING = {
    "": "the same, bit by bit",
    "A": "only in A",
    "B": "only in B",
    "≠": "of another shape",
    _FROM_ZERO: "zero in A or B",
}
# Characters that no XML has.
_UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class _Row:
    """A kind of tensor: layer -> the tensor, or None -> the only one, which belongs to no layer."""

    name: str
    tensors: Mapping[int | None, TensorDifference]


@dataclass(frozen=True, slots=True)
class _Panel:
    """One figure of every tensor, and how it is written."""

    title: str
    value: Callable[[TensorDifference], float | None]
    number: Callable[[float], str]
    decades: float


@dataclass(frozen=True, slots=True)
class _Grid:
    """Where the cells lie: pixels from the left, of all and of one, and the numbers of the layers."""

    left: int
    width: int
    cell: int
    layers: tuple[int, ...]

    @property
    def right(self) -> int:
        return self.left + self.width


def difference_picture(found: Sequence[TensorDifference], first: str, second: str) -> str:
    """The markup of a picture that is light or dark as the place where it is shown.

    A row is a kind of tensor and a column a layer; a tensor outside of layers has a row of its own. There are
    two panels: the length of the difference by that of the first one's, and 1 - cosine of both as vectors.
    Colours are steps of a logarithmic scale from the least to the most that changed. Each row says its range,
    shape and dtype; whoever points at a tensor reads its name and all its figures.

    Args:
        found: as `compare` gives it, in any order.
        first, second: what the two are called.
    """
    rows, prefix = _rows(found)
    layers = tuple(sorted({layer for row in rows for layer in row.tensors if layer is not None}))
    cell = min(_MOST_CELL, max(_LEAST_CELL, _GRID // max(1, len(layers))))
    names = max((len(row.name) for row in rows), default=0)
    grid = _Grid(_MARGIN + round(_LETTER * names) + 10, max(cell * len(layers), 180), cell, layers)
    notes = [_note(row) for row in rows]
    end = grid.right + _RANGE + round(_LETTER * max(map(len, notes), default=0))
    parts: list[str] = []
    y = _heading(parts, found, first, second)
    panels = (
        _Panel("Relative change: length of the difference, by that of A’s tensor", _change, _share, 3.0),
        _Panel("1 − cosine of both tensors as vectors", _turn, _short, 6.0),
    )
    for panel in panels:
        y = _draw(parts, panel, rows, notes, grid, prefix, y)
    shown = {mark for one in found if (mark := _mark(one)) is not None}
    x = _MARGIN
    for mark, meaning in _MEANING.items():
        if mark in shown:
            parts += [_box(x, y, 16, mark, ""), _text(x + 22, y + 13, meaning, "s muted")]
            x += 44 + 6 * len(meaning)
    y += 34 if shown else 0
    width = max(end, x, _MARGIN + _SWATCH * len(_LIGHT) + 60) + _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}">'
        f"<title>{_safe(f'What changed from {first} to {second}')}</title><style>{_style()}</style>\n"
        f'<rect class="paper" width="{width}" height="{y}"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _rows(found: Sequence[TensorDifference]) -> tuple[list[_Row], str]:
    """Rows from the embeddings to the heads, kinds by name, and what all kinds in layers begin with."""
    kinds: dict[str, dict[int | None, TensorDifference]] = {}
    for one in found:
        place, _ = place_of(one.name)
        kinds.setdefault(place.pattern, {})[place.layer] = one
    starts = {pattern.partition("{}.")[0] for pattern, own in kinds.items() if None not in own}
    prefix = starts.pop() if len(starts) == 1 else ""

    def order(pattern: str) -> tuple[int, str]:
        if None not in kinds[pattern]:
            return 1, pattern
        return (0 if before_layers(pattern) else 2), pattern

    rows = []
    for pattern in sorted(kinds, key=order):
        name = pattern.removeprefix(prefix + "{}.") if None not in kinds[pattern] else pattern
        rows.append(_Row(_cut(name, _MOST_NAME), kinds[pattern]))
    return rows, prefix


def _heading(parts: list[str], found: Sequence[TensorDifference], first: str, second: str) -> int:
    """Both names, and what there is of each kind and dtype; gives where the next thing begins."""
    kinds = Counter(one.kind for one in found)
    dtypes = Counter(_both(one.dtypes) for one in found if None not in one.dtypes)
    lines = (
        ("What changed from A to B", "t"),
        (f"A  {_cut(first, _MOST_TITLE)}", "m"),
        (f"B  {_cut(second, _MOST_TITLE)}", "m"),
        (f"{len(found):,} tensors: {_counted(kinds)}. {_counted(dtypes)}.".replace(". .", "."), "muted"),
    )
    for place, (line, kind) in enumerate(lines):
        parts.append(_text(_MARGIN, 34 + 20 * place, line, kind))
    return 34 + 20 * len(lines) + 14


def _draw(
    parts: list[str],
    panel: _Panel,
    rows: Sequence[_Row],
    notes: Sequence[str],
    grid: _Grid,
    prefix: str,
    y: int,
) -> int:
    values = [
        value
        for row in rows
        for one in row.tensors.values()
        if _mark(one) is None and (value := panel.value(one)) is not None and value > 0
    ]
    high = max(values, default=1.0)
    least = min(values, default=high)
    low = max(least, high * 10.0**-panel.decades)
    parts.append(_text(_MARGIN, y, panel.title, "h"))
    y += 20
    if grid.layers:
        parts.append(_text(grid.left - 10, y + 2, f"{prefix}…" if prefix else "layer", "m muted e"))
        every = max(1, math.ceil(26 / grid.cell))
        for place, label in enumerate(grid.layers):
            if place % every == 0:
                middle = grid.left + grid.cell * place + grid.cell // 2
                parts.append(_text(middle, y + 2, str(label), "s muted c"))
        y += 10
    for row, note in zip(rows, notes, strict=True):
        parts.append(_text(grid.left - 10, y + 13, row.name, "m e"))
        for layer, one in row.tensors.items():
            value, mark = panel.value(one), _mark(one)
            x = grid.left if layer is None else grid.left + grid.cell * grid.layers.index(layer)
            width = grid.width if layer is None else grid.cell
            step = None if value is None or mark is not None else _step(value, low, high)
            inside = mark or ""
            if mark is None and value is not None and width >= _WITH_NUMBER:
                inside = panel.number(value)
            parts.append(_box(x, y, width, inside, _said(one), step))
        own = [
            v for one in row.tensors.values() if _mark(one) is None and (v := panel.value(one)) is not None
        ]
        if len(row.tensors) > 1 and own:
            parts.append(_text(grid.right + 12, y + 13, _range(own, panel.number), "s"))
        parts.append(_text(grid.right + _RANGE, y + 13, note, "m muted"))
        y += _ROW
    y += 10
    if values:
        steps = len(_LIGHT)
        for place in range(steps):
            parts.append(_box(_MARGIN + 24 + _SWATCH * place, y, _SWATCH, "", "", place))
        for place in range(steps + 1):
            edge = panel.number(low * (high / low) ** (place / steps))
            edge = f"≤ {edge}" if place == 0 and least < low else edge
            parts.append(_text(_MARGIN + 24 + _SWATCH * place, y + 30, edge, "s muted c"))
        y += 30
    return y + 34


def _change(one: TensorDifference) -> float | None:
    return one.relative_change


def _turn(one: TensorDifference) -> float | None:
    return None if one.cosine is None else max(0.0, 1.0 - one.cosine)


def _mark(one: TensorDifference) -> str | None:
    """What a tensor shows in place of a colour; None where it has one."""
    if one.kind in _MARKS:
        return _MARKS[one.kind]
    return _FROM_ZERO if one.relative_change is None or one.cosine is None else None


def _step(value: float, low: float, high: float) -> int:
    """Which colour a value has."""
    if value <= low or low == high:
        return 0 if value < high else len(_LIGHT) - 1
    return min(len(_LIGHT) - 1, int(len(_LIGHT) * math.log(value / low) / math.log(high / low)))


def _note(row: _Row) -> str:
    """Shape and dtype of a row, or that there are several."""
    shapes = {one.shapes for one in row.tensors.values() if None not in one.shapes} or {
        one.shapes for one in row.tensors.values()
    }
    dtypes = {one.dtypes for one in row.tensors.values() if None not in one.dtypes} or {
        one.dtypes for one in row.tensors.values()
    }
    shape = _both(tuple(map(_sizes, shapes.pop()))) if len(shapes) == 1 else "several shapes"
    return f"{shape} {_both(dtypes.pop()) if len(dtypes) == 1 else 'several dtypes'}"


def _said(one: TensorDifference) -> str:
    """All that is known of a tensor, for whoever points at it."""
    facts = [one.name, one.kind]
    if one.relative_change is not None:
        facts.append(f"relative change {one.relative_change:.3e}")
    if one.cosine is not None:
        facts.append(f"cosine {one.cosine:.9f}")
    if one.largest is not None:
        facts.append(f"largest difference {one.largest:.3e}")
    return ", ".join([*facts, _both(tuple(map(_sizes, one.shapes))), _both(one.dtypes)])


def _sizes(shape: tuple[int, ...] | None) -> str | None:
    return None if shape is None else "×".join(map(str, shape)) or "one number"


def _both(pair: Sequence[str | None]) -> str:
    """What both have, or what each has."""
    there = dict.fromkeys(one for one in pair if one is not None)
    return " → ".join(there)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _range(values: Iterable[float], number: Callable[[float], str]) -> str:
    ends = dict.fromkeys(number(end) for end in (min(values), max(values)))
    return " to ".join(ends)


def _share(value: float) -> str:
    """In per cent with two digits; what is below a hundredth of one as a power of ten."""
    if value == 0 or value < 0.95e-4:
        return _short(value)
    return f"{100 * value:,.0f} %" if value >= 0.0995 else f"{100 * value:.2g} %"


def _short(value: float) -> str:
    return re.sub(r"e([+-])0", r"e\1", f"{value:.1e}") if value else "0"


def _cut(text: str, most: int) -> str:
    """The end of a long text, which tells names apart."""
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _box(x: int, y: int, width: int, inside: str, said: str, step: int | None = None) -> str:
    """A rectangle of a colour, or an outline without one; text in its middle; what pointing at it says."""
    kind = f"s{step}" if step is not None else "odd" if inside else "same"
    title = f"<title>{_safe(said)}</title>" if said else ""
    inset = 0 if step is not None else 0.5
    box = (
        f'<rect class="{kind}" x="{x + inset}" y="{y + inset}" width="{width - 1 - 2 * inset:g}" '
        f'height="{_CELL_HEIGHT - 2 * inset:g}">{title}</rect>'
    )
    if not inside:
        return box
    ink = "odd-text" if step is None else "ink" if step < _INK_STEPS else "paper"
    return box + _text(x + width // 2, y + 12.5, inside, f"on {ink}")


def _text(x: float, y: float, text: str, kind: str) -> str:
    colour = "" if {"muted", "odd-text", "paper", "ink"} & set(kind.split()) else " ink"
    return f'<text class="{kind}{colour}" x="{x:g}" y="{y:g}">{_safe(text)}</text>'


def _safe(text: str) -> str:
    return escape(_UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", text))


def _style() -> str:
    """CSS of both; renderers that know no media queries draw the light one."""

    def of(colours: Mapping[str, str], steps: Sequence[str]) -> str:
        fills = {f"s{place}": colour for place, colour in enumerate(steps)}
        fills |= {name: colours[name] for name in ("paper", "ink", "muted")} | {"odd-text": colours["odd"]}
        css = "".join(f".{name}{{fill:{colour}}}" for name, colour in fills.items())
        outlines = {"same": colours["line"], "odd": colours["odd"]}
        return css + "".join(f".{n}{{fill:none;stroke:{colour}}}" for n, colour in outlines.items())

    light, dark = of(_COLOURS[0], _LIGHT), of(_COLOURS[1], _DARK)
    return f"{_FONTS}{light}@media(prefers-color-scheme:dark){{{dark}}}"
