"""Measures Tercet and its peers on this machine, and writes docs/benchmarks.md and its picture.

    make bench                                # everything: one to two hours on 2 cores
    make bench-short                          # within 15 minutes, models and environments made before
    python benchmarks/run.py --only minilm,A,tercet,st
    python benchmarks/run.py --page           # the page anew from the samples that are there

Raw samples are kept in build/bench; a run that was stopped goes on where it was, as long as machine, versions
and code are the same.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import environments
import machine
import measure
import models
import peak
import report
from engines import ENGINES, FULL, PEERS, ROOT, SHAPES, SHORT, TRY, Meetings, select, with_precisions
from samples import Store

# Left for the last worker to end and for the page to be written.
SHORT_SECONDS = 13.5 * 60


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="fewer samples, and an end after 15 minutes")
    parser.add_argument("--only", default="", help="shapes, workloads, engines, parts; separated by commas")
    parser.add_argument("--precisions", default="auto", help="of Tercet beside float32, separated by commas")
    parser.add_argument("--fresh", action="store_true", help="forget the samples that are there")
    parser.add_argument("--page", action="store_true", help="write the page and the picture, measure nothing")
    parser.add_argument(
        "--try", action="store_true", dest="attempt", help="a tiny model: does the bench work?"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="the folder of the page")
    options = parser.parse_args()
    form = "try" if options.attempt else "short" if options.short else "full"
    only = tuple(name for name in options.only.split(",") if name)
    check(only)
    meetings = select(
        with_precisions({"full": FULL, "short": SHORT, "try": TRY}[form], names(options.precisions)), only
    )
    path = models.BENCH / f"results-{form}.json"
    if options.page:
        store = newest(path)
    else:
        identity = {"machine": machine.machine(), "versions": machine.versions(), "code": machine.code()}
        store = Store(path, identity, fresh=options.fresh)
        prepare(meetings)
        seconds = SHORT_SECONDS if form == "short" else None
        bench = measure.Bench(store, seconds, patience={"full": 2, "short": 1, "try": 0}[form])
        bench.long = 8.0 if form == "short" else 20.0
        run(bench, form, meetings, only)
    page = options.out / "benchmarks.md"
    if options.attempt:
        page = models.BENCH / "try.md"
    found = report.write(store, form, page)
    drawn = models.BENCH / "picture.json"
    drawn.write_text(json.dumps(found.picture()), encoding="utf-8")
    command = [str(ROOT / PEERS / "bin" / "python"), str(Path(__file__).parent / "picture.py")]
    subprocess.run([*command, str(drawn), str(page.with_suffix(".svg"))], check=True)
    print(f"wrote {page} and {page.with_suffix('.svg')}", file=sys.stderr)


def names(text: str) -> tuple[str, ...]:
    """Precisions by name, each of which must be known."""
    found = tuple(name for name in text.split(",") if name)
    for name in found:
        if name != "float32" and f"tercet-{name}" not in ENGINES:
            sys.exit(f"--precisions: there is no {name!r}; there are auto, float32, bfloat16, float16.")
    return found


PARTS = ("peak", "speed", "cold", "memory", "drift")


def check(only: tuple[str, ...]) -> None:
    known = {*SHAPES, *ENGINES, *PARTS, *(name for places in FULL.values() for name in places)}
    for name in only:
        if name not in known:
            sys.exit(f"--only: there is no {name!r}; there are {', '.join(sorted(known))}.")


def newest(path: Path) -> Store:
    """The samples that are there, whatever machine they are of."""
    if not path.exists():
        sys.exit(f"{path}: nothing has been measured yet. Run it without --page.")
    with path.open(encoding="utf-8") as file:
        identity = json.loads(file.readline())["identity"]
    return Store(path, identity)


def prepare(meetings: Meetings) -> None:
    """Environments, models, exports and texts: before the clock starts."""
    environments.prepare(PEERS)
    for shape, places in meetings.items():
        models.folder_of(SHAPES[shape])
        models.exports_of(SHAPES[shape], {name for _, engines in places.values() for name in engines})
        if SHAPES[shape].layers == 24:
            models.folder_of(SHAPES[shape], "float16")
        for workload in (*places, "few", "query"):
            measure.texts_of(shape, workload)


def run(bench: measure.Bench, form: str, meetings: Meetings, only: tuple[str, ...]) -> None:
    """Every part that was chosen, what matters most first."""
    parts = tuple(part for part in PARTS if part in only) or PARTS
    few = form == "short"
    if "peak" in parts and not bench.store.find(kind="peak", clean=True):
        for _ in range(1 + bench.patience):
            if bench.sample(peak.measure, kind="peak")["clean"]:
                break
    if "cold" in parts:
        for shape in meetings:
            if shape != "m3-6":
                engines = _among(("tercet", "st", "fe", "openvino", "onnx"), only, shape)
                measure.cold(bench, shape, engines[:2] if few else engines, 3 if form == "full" else 1)
    if "memory" in parts and "m3-24" in meetings:
        for dtype in ("float32", "float16"):
            engines = _among(
                ("tercet", "st", *(("st-default",) if dtype == "float16" and not few else ())), only, "m3-24"
            )
            measure.memory(bench, "m3-24", dtype, engines, "few" if few else "A")
    if "drift" in parts and "minilm" in meetings:
        engines = ("tercet", "st", "openvino", "openvino-int8", "onnx", "onnx-int8", "tercet-auto")
        measure.drift(bench, _among(("tercet",) if few else engines, only, "minilm"), None)
    if "speed" in parts:
        for shape in ("minilm", "m3-24", "m3-6", "tiny"):
            if shape in meetings:
                measure.speed(bench, shape, meetings[shape])


def _among(wanted: tuple[str, ...], only: tuple[str, ...], shape: str) -> tuple[str, ...]:
    """Engines that were chosen and that can run a shape."""
    chosen = [name for name in only if name in ENGINES]
    return tuple(
        name
        for name in wanted
        if (not chosen or name in chosen)
        and not (shape == "minilm" and name.startswith("fe"))
        and not (shape == "m3-24" and ENGINES[name].graph)
    )


if __name__ == "__main__":
    main()
