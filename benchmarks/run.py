"""Measures Tercet and its peers on this machine, and writes docs/benchmarks.md and its picture.

    make bench                                # everything: some hours on 2 cores
    make bench BENCH="--minutes 50"           # as much of it as fits; the same again goes on from there
    make bench-short                          # within 15 minutes, models and environments made before
    python benchmarks/run.py --only minilm,A,tercet,st
    python benchmarks/run.py --page           # the page anew from the samples that are there

Raw samples are kept in build/bench, a file for each state of machine, versions and source: a run that was
stopped goes on where it was as long as none of them changed, and samples of two states are never mixed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import environments
import machine
import measure
import models
import peak
import report
from drift import drift
from engines import (
    ENGINES,
    FULL,
    PEERS,
    PRECISIONS,
    ROOT,
    SCHEMES,
    SHAPES,
    SHORT,
    TRY,
    Meetings,
    ours,
    select,
    with_precisions,
)
from figures import Figures
from samples import Store, key_of
from speed import missing, speed
from starts import cold, memory

# Left for the last worker to end and for the page to be written.
SHORT_SECONDS = 13.5 * 60
PAGE_SECONDS = 45.0


def main() -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="fewer samples, and an end after 15 minutes")
    parser.add_argument("--minutes", type=float, help="end after so many, with the page of what there is")
    parser.add_argument("--only", default="", help="shapes, workloads, engines, parts; separated by commas")
    parser.add_argument(
        "--precisions",
        default=",".join((*SCHEMES[1:], "auto")),
        help="of Tercet beside float32, separated by commas; by default %(default)s",
    )
    parser.add_argument("--fresh", action="store_true", help="forget the samples that are there")
    parser.add_argument("--page", action="store_true", help="write the page and the picture, measure nothing")
    parser.add_argument(
        "--try", action="store_true", dest="attempt", help="a tiny model: does the bench work?"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="the folder of the page")
    options = parser.parse_args()
    if options.minutes is not None and options.minutes * 60 <= PAGE_SECONDS:
        sys.exit(f"--minutes {options.minutes:g}: the page alone takes {PAGE_SECONDS:g} seconds; give more.")
    form = "try" if options.attempt else "short" if options.short else "full"
    only = tuple(name for name in options.only.split(",") if name)
    check(only)
    wanted = names(options.precisions)
    meetings = select(with_precisions({"full": FULL, "short": SHORT, "try": TRY}[form], wanted), only)
    note, stopped = "", False
    if options.page:
        store = newest(form)
    else:
        store = opened(form, fresh=options.fresh)
        prepare(meetings)
        bench = measure.Bench(
            store,
            patience={"full": 2, "short": 1, "try": 0}[form],
            waiting={"full": 600.0, "short": 60.0, "try": 0.0}[form],
            long=8.0 if form == "short" else 20.0,
            code=machine.code,
        )
        if options.minutes is not None:
            bench.started, bench.seconds = started, options.minutes * 60 - PAGE_SECONDS
        elif form == "short":
            bench.seconds = SHORT_SECONDS
        try:
            note = run(bench, form, meetings, only)
        except measure.StoppedError as error:
            note, stopped = str(error), True
    page = options.out / "benchmarks.md"
    if options.attempt:
        page = models.BENCH / "try.md"
    found = report.write(store, form, page, note)
    print(f"wrote {page}", file=sys.stderr)
    if found.shapes():
        draw(found, page.with_suffix(".svg"))
    if note:
        print(note, file=sys.stderr)
    if stopped:
        sys.exit(1)


def draw(found: Figures, path: Path) -> None:
    """The picture beside the page, by the environment that has matplotlib."""
    drawn = models.BENCH / "picture.json"
    drawn.write_text(json.dumps(found.picture()), encoding="utf-8")
    environments.prepare(PEERS)
    command = [str(ROOT / PEERS / "bin" / "python"), str(Path(__file__).parent / "picture.py")]
    subprocess.run([*command, str(drawn), str(path)], check=True)
    print(f"wrote {path}", file=sys.stderr)


def names(text: str) -> tuple[str, ...]:
    """Precisions by name, each of which must be known."""
    found = tuple(name for name in text.split(",") if name)
    for name in found:
        if name not in PRECISIONS:
            sys.exit(f"--precisions: there is no {name!r}; there are {', '.join(PRECISIONS)}.")
    return found


PARTS = ("peak", "speed", "cold", "memory", "drift")


def check(only: tuple[str, ...]) -> None:
    known = {*SHAPES, *ENGINES, *PARTS, *(name for places in FULL.values() for name in places)}
    for name in only:
        if name not in known:
            sys.exit(f"--only: there is no {name!r}; there are {', '.join(sorted(known))}.")


def opened(form: str, *, fresh: bool) -> Store:
    """The samples of this state of machine, versions and source; says what it found."""
    identity = {"machine": machine.machine(), "versions": machine.versions(), "code": machine.code()}
    path = models.BENCH / f"results-{form}-{key_of(identity)}.json"
    others = [other for other in models.BENCH.glob(f"results-{form}-*.json") if other != path]
    store = Store(path, identity, fresh=fresh)
    if store.set_aside is not None:
        measure.say(f"{store.set_aside.name} has the samples that were there")
    if store.rows:
        measure.say(f"going on with {len(store.rows)} rows of {path.name}")
    else:
        beside = f"; {len(others)} files of other states are left alone" if others else ""
        measure.say(f"beginning {path.name} for source {identity['code']}{beside}")
    return store


def newest(form: str) -> Store:
    """The latest samples that are there, whatever machine and source they are of."""
    paths = sorted(models.BENCH.glob(f"results-{form}-*.json"), key=lambda path: path.stat().st_mtime)
    if not paths:
        sys.exit(f"{models.BENCH}: no samples of the {form} form are there. Run it without --page.")
    with paths[-1].open(encoding="utf-8") as file:
        identity = json.loads(file.readline())["identity"]
    return Store(paths[-1], identity)


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


def run(bench: measure.Bench, form: str, meetings: Meetings, only: tuple[str, ...]) -> str:
    """Every part that was chosen, what matters most first; what a reader must know if it ended early."""
    parts = tuple(part for part in PARTS if part in only) or PARTS
    _run(bench, form, meetings, only, parts)
    left = missing(bench.store, meetings) if "speed" in parts else 0
    if bench.cut:
        return (
            f"The time was up: {left} samples of the speed tables, and whatever else is missing below, are "
            "still to be measured. Run again with the same options, and it goes on from here."
        )
    if left:
        measure.say(f"{left} samples of the speed tables were not measured, or were disturbed")
    return ""


def _run(
    bench: measure.Bench, form: str, meetings: Meetings, only: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    few = form == "short"
    schemes = tuple(ours(scheme) for scheme in SCHEMES)
    if "peak" in parts and not bench.store.find(kind="peak", clean=True):
        for _ in range(1 + bench.patience):
            if bench.fits(30.0) and bench.sample(peak.measure, kind="peak")["clean"]:
                break
    if "cold" in parts:
        for shape in meetings:
            if shape not in ("m3-6", "tiny"):
                engines = (
                    ("tercet", "st") if few else ("tercet", "st", "fe", "openvino", "onnx", *schemes[1:])
                )
                cold(bench, shape, _among(engines, only, shape), 3 if form == "full" else 1)
    if "memory" in parts and "m3-24" in meetings:
        for dtype in ("float32", "float16"):
            # Precisions that pack their weights have a goal from one file.
            more = schemes[1:] if dtype == "float32" else () if few else ("st-default",)
            memory(
                bench, "m3-24", dtype, _among(("tercet", "st", *more), only, "m3-24"), "few" if few else "A"
            )
    if "drift" in parts and "minilm" in meetings:
        peers = () if few else ("st", "openvino", "openvino-int8", "onnx", "onnx-int8", "tercet-auto")
        drift(bench, _among((*schemes, *peers), only, "minilm"))
    if "speed" in parts:
        for shape in ("minilm", "m3-24", "m3-6", "tiny"):
            if shape in meetings:
                speed(bench, shape, meetings[shape])


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
