"""The goals that Tercet's precisions are held to, and what was measured of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engines import SCHEMES, ours
from figures import Figures
from retrieval import GOALS as DRIFT
from samples import Spread, ratio


@dataclass(frozen=True, slots=True)
class Cell:
    """One precision's part of a goal.

    Attributes:
        goal: the number as people read it; "" where none was set.
        measured: likewise; "not measured" or "does not run here" where there is none.
        met: None where there is no goal or no number.
    """

    goal: str
    measured: str
    met: bool | None = None


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the page's first table: what is compared, each precision's part, and on what."""

    what: str
    cells: Mapping[str, Cell]
    basis: str = ""


M3 = ("m3-24", "m3-6")
# (peer, all three outputs?, workload, shapes from best to next best, precision -> least times as fast)
FASTER: tuple[tuple[str, bool, str, tuple[str, ...], dict[str, float]], ...] = (
    ("fe", True, "A", M3, {"float32": 9.0, "float16": 17.0, "int8-fast": 30.0}),
    ("st", False, "A", M3, {"float32": 2.8, "float16": 5.2, "int8-fast": 12.0}),
    ("st", False, "B", M3, {"float32": 1.8, "float16": 3.3, "int8-fast": 5.5}),
    ("st", False, "uniform", M3, {"float32": 1.25, "float16": 2.3, "int8-fast": 4.0}),
    ("st", False, "query", M3, {"float32": 2.0, "float16": 3.5, "int8-fast": 6.0}),
    ("st", False, "B", ("minilm",), {"float32": 1.5, "float16": 2.5, "int8-fast": 4.5}),
    ("openvino", False, "A", ("m3-6",), {"float32": 1.15}),
    ("openvino", False, "B", ("minilm",), {"float32": 1.15}),
    ("openvino-int8", False, "A", ("m3-6",), {"int8-fast": 1.25}),
    ("openvino-int8", False, "B", ("minilm",), {"int8-fast": 1.5}),
    ("onnx-int8", False, "A", ("m3-6",), {"int8-fast": 2.0}),
    ("onnx-int8", False, "B", ("minilm",), {"int8-fast": 2.0}),
)
SHARE = {"float32": 0.72, "float16": 0.65, "int8-fast": 0.65}
# file -> precision -> at most so many times sentence-transformers' float32
SMALLER = {"float32": {"float32": 1.1, "float16": 0.7, "int8-fast": 0.5}, "float16": {"float32": 1.0}}
COLDER = {"minilm": {"float32": 1 / 3}, "m3-24": {"float32": 1 / 2}}
# int8 may take so many times the time of int8-fast.
INT8_TIMES, INT8_ON = 1.3, (("m3-6", "A"), ("minilm", "B"))
NOT_MEASURED = "not measured"


def goals(found: Figures) -> list[Goal]:
    """Every goal, met or not or not measured."""
    rows = [_faster(found, *row) for row in FASTER]
    rows += [_int8(found, *where) for where in INT8_ON]
    rows.append(_share(found))
    rows += [_memory(found, file, most) for file, most in SMALLER.items()]
    rows += [_cold(found, shape, most) for shape, most in COLDER.items()]
    rows += [_drift(found, measure) for measure in ("mean", "worst", "overlap", "ndcg")]
    return rows


def _cells(
    found: Figures,
    wanted: Mapping[str, str],
    measure: Callable[[str], tuple[str, bool | None] | None],
    *,
    three: bool = False,
) -> dict[str, Cell]:
    """A cell for each precision.

    Args:
        found: what was measured.
        wanted: precision -> its goal as people read it.
        measure: precision -> the number as people read it and whether the goal is met; None of nothing.
        three: whether all three outputs are compared.
    """
    cells = {}
    for scheme in SCHEMES:
        goal, got = wanted.get(scheme, ""), measure(scheme)
        if got is not None:
            cells[scheme] = Cell(goal, got[0], got[1] if goal else None)
        elif found.absent(ours(scheme, three=three)):
            cells[scheme] = Cell(goal, "does not run here")
        else:
            cells[scheme] = Cell(goal, NOT_MEASURED if goal else "")
    return cells


def _faster(
    found: Figures, peer: str, three: bool, workload: str, shapes: tuple[str, ...], least: Mapping[str, float]
) -> Goal:
    def measured(where: str) -> bool:
        names = (ours(scheme, three=three) for scheme in SCHEMES)
        return bool(found.seconds(where, workload, peer)) and any(
            found.seconds(where, workload, name) for name in names
        )

    shape = next(filter(measured, shapes), shapes[0])
    theirs = found.seconds(shape, workload, peer)

    def times(scheme: str) -> tuple[str, bool] | None:
        mine = found.seconds(shape, workload, ours(scheme, three=three))
        if theirs is None or mine is None:
            return None
        ratios = ratio(theirs, mine)
        return _times(ratios), ratios.median >= least.get(scheme, 0.0)

    basis = found.shape_title(shape) if theirs else ""
    padding = found.padding(shape, workload, peer) if theirs else None
    if padding and padding > 1.02:
        basis += f"; {padding:.2f}× of it is the peer's padding"
    what = f"{found.title(peer)}, {found.workload_title(workload)}, {_short(shape)}"
    wanted = {scheme: f"≥ {times:g}×" for scheme, times in least.items()}
    return Goal(what, _cells(found, wanted, times, three=three), basis)


def _int8(found: Figures, shape: str, workload: str) -> Goal:
    accurate, fast = (found.seconds(shape, workload, ours(scheme)) for scheme in ("int8", "int8-fast"))

    def times(scheme: str) -> tuple[str, bool] | None:
        if scheme != "int8" or accurate is None or fast is None:
            return None
        ratios = ratio(accurate, fast)
        return _times(ratios), ratios.median <= INT8_TIMES

    what = f"time of int8 over that of int8-fast, {found.workload_title(workload)}, {_short(shape)}"
    cells = _cells(found, {"int8": f"≤ {INT8_TIMES:g}×"}, times)
    blank = {scheme: Cell("", "") for scheme in SCHEMES if scheme != "int8"}
    return Goal(what, cells | blank, found.shape_title(shape) if accurate and fast else "")


def _share(found: Figures) -> Goal:
    shape = "m3-24"
    workload = next((name for name in ("A", "B", "uniform") if found.share(shape, name, "tercet")), "A")

    def share(scheme: str) -> tuple[str, bool] | None:
        got = found.share(shape, workload, ours(scheme))
        return None if got is None else (f"{got:.0%}", got >= SHARE.get(scheme, 0.0))

    wanted = {scheme: f"≥ {least:.0%}" for scheme, least in SHARE.items()}
    rates = {
        dtype: peak for dtype in ("float32", "float16", "int8") if (peak := found.peak(dtype)) is not None
    }
    told = ", ".join(f"{dtype} {peak:,.0f}" for dtype, peak in rates.items())
    disturbed = "" if found.peaks_are_clean() else " (disturbed)"
    basis = f"{found.workload_title(workload)}; peaks in GFLOP/s{disturbed}: {told}" if told else ""
    product, peak = found.product("float32"), found.peak("float32")
    if product and peak:
        basis += f"; torch's best float32 product reaches {product / peak:.0%}"
    what = f"share of the physical limit, {_short(shape)}"
    return Goal(what, _cells(found, wanted, share), basis)


def _memory(found: Figures, file: str, most: Mapping[str, float]) -> Goal:
    theirs = found.anonymous(file, "st")

    def times(scheme: str) -> tuple[str, bool] | None:
        mine = found.anonymous(file, ours(scheme))
        if not mine or not theirs:
            return None
        return f"{mine / theirs:.2f}× ({mine / 1e6:,.0f} MB)", mine <= most.get(scheme, 0.0) * theirs

    basis = f"sentence-transformers in float32: {theirs / 1e6:,.0f} MB" if theirs else ""
    stored = found.anonymous(file, "st-default")
    if stored:
        basis += f"; as stored it needs {stored / 1e6:,.0f} MB"
    what = f"peak RssAnon, 24 layers from a {file} file, packed weights cached, of sentence-transformers'"
    return Goal(what, _cells(found, {scheme: f"≤ {x:g}×" for scheme, x in most.items()}, times), basis)


def _cold(found: Figures, shape: str, most: Mapping[str, float]) -> Goal:
    theirs = found.cold(shape, "st")

    def times(scheme: str) -> tuple[str, bool] | None:
        mine = found.cold(shape, ours(scheme))
        if not mine or not theirs:
            return None
        share = mine.median / theirs.median
        return f"{share:.2f}× ({mine.median:.2f} s)", share <= most.get(scheme, 0.0)

    basis = f"sentence-transformers: {theirs.median:.2f} s; files in the page cache" if theirs else ""
    what = f"cold start to the first vector, {_short(shape)}, of sentence-transformers'"
    return Goal(what, _cells(found, {scheme: f"≤ {x:.2f}×" for scheme, x in most.items()}, times), basis)


def _drift(found: Figures, measure: str) -> Goal:
    def value(scheme: str) -> tuple[str, bool] | None:
        row, limits = found.drift(ours(scheme)), DRIFT[scheme]
        name = "difference" if measure == "ndcg" else measure
        if row is None or row.get(name) is None:
            return None
        number = float(row[name])
        if measure == "ndcg":
            return f"{number:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]", abs(number) <= limits.ndcg
        if measure == "overlap":
            return f"{number:.4f}", number >= limits.overlap
        return f"{number:.1e}", number <= getattr(limits, measure)

    wanted = {
        scheme: {
            "mean": f"≤ {limits.mean:.1e}",
            "worst": f"≤ {limits.worst:.1e}",
            "overlap": f"≥ {limits.overlap:g}",
            "ndcg": f"within {limits.ndcg:g}",
        }[measure]
        for scheme, limits in DRIFT.items()
    }
    words = {"overlap": "top-10 overlap", "ndcg": "difference of nDCG@10"}
    what = f"drift on the packaged MiniLM, {words.get(measure, f'{measure} 1 - cosine')}"
    row = found.drift("tercet")
    basis = (
        f"{row['documents']:,} documents; float32 against float64, the others against float32" if row else ""
    )
    return Goal(what, _cells(found, wanted, value), basis)


def _times(times: Spread) -> str:
    span = f"{times.median:.2f}× ({times.low:.2f}-{times.high:.2f})"
    return span if times.clean else f"{span}, disturbed"


def _short(shape: str) -> str:
    return {"minilm": "MiniLM", "m3-6": "6 layers", "m3-24": "24 layers"}.get(shape, shape)
