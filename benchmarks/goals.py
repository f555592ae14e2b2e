"""The goals that Tercet's float32 engine is held to, and what was measured of each."""

from __future__ import annotations

from dataclasses import dataclass

from figures import Figures
from samples import Spread, ratio


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the page's first table.

    Attributes:
        what: against whom, on what.
        goal: the number as people read it.
        measured: likewise; "not measured" where nothing was.
        met: None where nothing was measured.
        basis: which shape, and what else a reader must know.
    """

    what: str
    goal: str
    measured: str
    met: bool | None
    basis: str


# (peer, ours, workload, shapes from best to next best, at least)
FASTER = (
    ("fe", "tercet-all", "A", ("m3-24", "m3-6"), 9.0),
    ("st", "tercet", "A", ("m3-24", "m3-6"), 2.8),
    ("st", "tercet", "B", ("m3-24", "m3-6"), 1.8),
    ("st", "tercet", "uniform", ("m3-24", "m3-6"), 1.25),
    ("st", "tercet", "query", ("m3-24", "m3-6"), 2.0),
    ("st", "tercet", "B", ("minilm",), 1.35),
    ("openvino", "tercet", "A", ("m3-6",), 1.15),
    ("openvino", "tercet", "B", ("minilm",), 1.15),
)
SMALLER = (("float32", 1.1), ("float16", 1.0))
COLDER = (("minilm", 1 / 3), ("m3-24", 1 / 2))


def goals(found: Figures) -> list[Goal]:
    """Every goal, met or not or not measured."""
    rows = [_faster(found, *row) for row in FASTER]
    rows.append(_share(found))
    rows += [_memory(found, file, most) for file, most in SMALLER]
    rows += [_cold(found, shape, most) for shape, most in COLDER]
    rows += [_drift(found, "mean", 1e-7), _drift(found, "worst", 1e-6)]
    return rows


def _faster(
    found: Figures, peer: str, ours: str, workload: str, shapes: tuple[str, ...], least: float
) -> Goal:
    what = f"{found.title(peer)}, {found.workload_title(workload)}"
    for shape in shapes:
        theirs, mine = found.seconds(shape, workload, peer), found.seconds(shape, workload, ours)
        if theirs and mine:
            times = ratio(theirs, mine)
            padding = found.padding(shape, workload, peer)
            basis = found.shape_title(shape)
            if padding and padding > 1.02:
                basis += (
                    f"; {padding:.2f}× of it is the peer's padding, {times.median / padding:.2f}× computing"
                )
            return Goal(
                f"{what}, {_short(shape)}", f"≥ {least:g}×", _times(times), times.median >= least, basis
            )
    return Goal(f"{what}, {_short(shapes[0])}", f"≥ {least:g}×", "not measured", None, "")


def _share(found: Figures) -> Goal:
    for workload in ("A", "B", "uniform"):
        seconds, peak = found.seconds("m3-24", workload, "tercet"), found.peak("float32")
        if seconds and peak:
            rate = found.flops("m3-24", workload) / seconds.median * 1e-9
            product = found.product("float32")
            title = found.workload_title(workload)
            basis = f"{rate:,.0f} of {peak:,.0f} GFLOP/s that the instructions do; {title}"
            if product:
                basis += f"; torch's best matrix product reaches {product:,.0f} ({product / peak:.0%})"
            return Goal(
                "share of the float32 limit, 24 layers",
                "≥ 70 %",
                f"{rate / peak:.0%}",
                rate >= 0.7 * peak,
                basis,
            )
    return Goal("share of the float32 limit, 24 layers", "≥ 70 %", "not measured", None, "")


def _memory(found: Figures, file: str, most: float) -> Goal:
    what = f"peak RssAnon, 24 layers from a {file} file, of sentence-transformers'"
    ours, theirs = found.anonymous(file, "tercet"), found.anonymous(file, "st")
    if not ours or not theirs:
        return Goal(what, f"≤ {most:g}×", "not measured", None, "")
    basis = f"{ours / 1e6:,.0f} against {theirs / 1e6:,.0f} MB, both computing in float32"
    stored = found.anonymous(file, "st-default")
    if stored:
        basis += f"; as stored it needs {stored / 1e6:,.0f} MB"
    return Goal(what, f"≤ {most:g}×", f"{ours / theirs:.2f}×", ours <= most * theirs, basis)


def _cold(found: Figures, shape: str, most: float) -> Goal:
    what = f"cold start to the first vector, {_short(shape)}, of sentence-transformers'"
    ours, theirs = found.cold(shape, "tercet"), found.cold(shape, "st")
    if not ours or not theirs:
        return Goal(what, f"≤ {most:.2f}×", "not measured", None, "")
    times = ours.median / theirs.median
    basis = f"{ours.median:.2f} against {theirs.median:.2f} s, files in the page cache, probe remembered"
    return Goal(what, f"≤ {most:.2f}×", f"{times:.2f}×", times <= most, basis)


def _drift(found: Figures, which: str, most: float) -> Goal:
    what = f"drift on the packaged MiniLM, {which} 1 - cosine"
    row = found.drift("tercet")
    if row is None:
        return Goal(what, f"≤ {most:.0e}", "not measured", None, "")
    basis = f"{row['texts']:,} documents, against sentence-transformers in float64"
    return Goal(what, f"≤ {most:.0e}", f"{row[which]:.1e}", row[which] <= most, basis)


def _times(times: Spread) -> str:
    return f"{times.median:.2f}× ({times.low:.2f}-{times.high:.2f})"


def _short(shape: str) -> str:
    return {"minilm": "MiniLM", "m3-6": "6 layers", "m3-24": "24 layers"}.get(shape, shape)
