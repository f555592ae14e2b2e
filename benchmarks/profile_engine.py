"""Where the time of an encode goes, part by part: a table in Markdown.

    python benchmarks/profile_engine.py                       # MiniLM and BGE-M3's shape in 6 layers, float32
    python benchmarks/profile_engine.py --precision int8-fast --shape minilm
    python benchmarks/profile_engine.py --peaks peaks.json    # of an earlier `python benchmarks/peak.py`

Runs with and without the clocks take turns; what the clocks cost is told. An activation that a product
computes on its way, and a quantisation that a kernel does inside, belong to that product.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

import machine
import peak
import tercet
from engines import SHAPES
from limits import Sizes
from measure import request_for
from models import folder_of
from parts import ATTENTION, ORDER, Recorder, recorded, shares
from quiet import MOST_OTHERS, Watch
from report import table
from samples import digits
from tercet.embedder import Embedder
from tercet.errors import PrecisionError

# shape -> the workload that fills it
WORKLOADS = {"minilm": "B", "m3-6": "A"}


@dataclass(frozen=True, slots=True)
class Profile:
    """One model, one workload.

    Attributes:
        seconds: part -> seconds of one encode, in the run of median length of those with clocks.
        plain, clocked: medians of the runs without and with clocks.
        lengths: tokens of each text.
        others: share of the CPU that other processes used meanwhile.
    """

    seconds: dict[str, float]
    plain: float
    clocked: float
    lengths: tuple[int, ...]
    others: float


def profile(
    model: Embedder, texts: Sequence[str], *, max_length: int | None = None, rounds: int = 3
) -> Profile:
    """Encode the texts as often as told, in turn with and without clocks.

    Args:
        rounds: at least 1, after one run that warms up.
    """
    found = model.encode(texts, max_length=max_length)
    plain, clocked = [], []
    watch = Watch()
    for _ in range(rounds):
        started = perf_counter()
        model.encode(texts, max_length=max_length)
        plain.append(perf_counter() - started)
        recorder = Recorder()
        with recorded(model, recorder):
            started = perf_counter()
            model.encode(texts, max_length=max_length)
            clocked.append((perf_counter() - started, recorder.seconds))
    clocked.sort(key=lambda run: run[0])
    _, seconds = clocked[rounds // 2]
    return Profile(
        dict(seconds),
        median(plain),
        median(run[0] for run in clocked),
        tuple(found.num_tokens.tolist()),
        watch.others(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", action="append", help="float32 by default; may be given several times")
    parser.add_argument("--shape", action="append", choices=[*WORKLOADS, "m3-24"], help="both by default")
    parser.add_argument("--workload", help="another than the shape's own: A, B, uniform, query, few")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peaks", type=Path, help="JSON of benchmarks/peak.py; measured now by default")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    options = parser.parse_args()
    if options.rounds < 1:
        sys.exit(f"--rounds is {options.rounds}; it must be at least 1.")
    # That long texts are cut is part of the workload.
    logging.getLogger("tercet").setLevel(logging.ERROR)
    peaks = peaks_of(options.peaks)
    print(head(), flush=True)
    rows = []
    for shape in options.shape or WORKLOADS:
        asked = request_for(shape, options.workload or WORKLOADS.get(shape, "A"))
        texts = json.loads(Path(asked["texts"]).read_text(encoding="utf-8"))
        for precision in options.precision or ["float32"]:
            title = f"\n## {SHAPES[shape].title}, {precision}\n"
            try:
                model = tercet.load(str(folder_of(SHAPES[shape])), precision=precision, device="cpu")
            except PrecisionError as error:
                print(f"{title}\ndoes not run here: {' '.join(str(error).split())}")
                rows.append({"shape": shape, "precision": precision, "reason": str(error)})
                continue
            found = profile(model, texts, max_length=asked["max_length"], rounds=options.rounds)
            scheme, dtype = str(model.plan.scheme), str(model.plan.scheme.dtype)
            print(
                f"{title}\n{told(found, scheme, Sizes.of(folder_of(SHAPES[shape])), dtype, peaks)}",
                flush=True,
            )
            rows.append({"shape": shape, "precision": precision, "scheme": scheme, **asdict(found)})
    if options.json is not None:
        facts = {"machine": machine.machine(), "code": machine.code(), "peaks": peaks, "profiles": rows}
        aside = options.json.with_name(f".{options.json.name}.part")
        aside.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        aside.replace(options.json)


def peaks_of(path: Path | None) -> dict[str, float]:
    """dtype -> GFLOP/s: the best of the instructions and of torch's products."""
    found = peak.measure() if path is None else json.loads(path.read_text(encoding="utf-8"))
    best: dict[str, float] = {}
    for kind in ("instructions", "products"):
        for dtype, rate in found[kind].items():
            best[dtype] = max(rate, best.get(dtype, 0.0))
    return best


def head() -> str:
    """Machine and versions."""
    here = machine.machine()
    return (
        f"{here['cpu']} ({here['model']}), {here['cores']} cores, {torch.get_num_threads()} threads; "
        f"{' '.join(here['flags'])}; Python {here['python']}, torch {torch.__version__}, "
        f"tercet {tercet.__version__}, source {machine.code()}"
    )


def told(found: Profile, scheme: str, sizes: Sizes, dtype: str, peaks: dict[str, float]) -> str:
    """The table, and what the clocks cost.

    Args:
        dtype: that linear layers compute in; attention is held to float32's peak.
    """
    work = sizes.parts(found.lengths)
    unit = "GOP/s" if dtype == "int8" else "GFLOP/s"
    rows: list[tuple[str, ...]] = []
    for part, seconds, share in shares(found.seconds):
        line = [part, digits(1000 * seconds), f"{share:.1%}", "", ""]
        if done := sum(work[name] for name in ORDER[part]):
            rate, limit = 1e-9 * done / seconds, peaks.get("float32" if part == ATTENTION else dtype)
            line[3] = digits(rate)
            line[4] = f"{rate / limit:.0%}" if limit else "-"
        rows.append(tuple(line))
    total = sum(found.seconds.values())
    rate = 1e-9 * sum(work.values()) / total
    rows.append(("**all**", digits(1000 * total), "100.0%", digits(rate), ""))
    tokens = sum(found.lengths)
    disturbed = (
        f" **Disturbed: other processes used {found.others:.0%} of the CPU.**"
        if found.others >= MOST_OTHERS
        else ""
    )
    limits = ", ".join(
        f"{name} {digits(peaks[name])}" for name in dict.fromkeys((dtype, "float32")) if name in peaks
    )
    return (
        f"{scheme}: {len(found.lengths)} texts, {tokens:,} tokens, {tokens / found.plain:,.0f} tokens a "
        f"second. Peaks: {limits or 'none measured'} {unit}; attention is held to float32's.{disturbed}\n\n"
        + table(("part", "ms", "share", unit, "of the peak"), rows)
        + f"\n\nWith clocks {1000 * found.clocked:,.1f} ms, without {1000 * found.plain:,.1f} ms: they cost "
        f"{found.clocked / found.plain - 1:+.1%}."
    )


if __name__ == "__main__":
    main()
