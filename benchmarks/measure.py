"""The measurements, each of which keeps its raw samples in a store: speed, cold start, memory, drift."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines import ENGINES, SHAPES, Engine, request_of
from models import BENCH, exports_of, folder_of, runnable
from processes import WorkerError, WorkerProcess
from quiet import MOST_OTHERS, Watch, wait_for_quiet
from samples import Store
from workloads import WORKLOADS, corpus, make_texts, words

# A sample lasts at least so long, or /proc/stat's hundredths of a second could not tell who disturbed it.
LEAST_SECONDS = 0.7
CACHE = BENCH / "cache"


@dataclass
class Bench:
    """What all measurements share.

    Attributes:
        store: where samples go.
        seconds: after so many no new sample is begun; None for no limit.
        patience: how often a disturbed sample is repeated.
        long: a first run warms up and is thrown away, unless it takes so many seconds that warmth cannot
            matter.
    """

    store: Store
    seconds: float | None = None
    patience: int = 2
    long: float = 20.0
    started: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        """Whether the time is used up."""
        return self.seconds is not None and time.monotonic() - self.started > self.seconds

    def sample(self, measure: Callable[[], dict[str, Any]], **key: Any) -> dict[str, Any]:
        """One measurement, kept with what others used of the CPU meanwhile."""
        # The threads of the engine before may still spin in wait for more.
        time.sleep(0.1)
        watch = Watch()
        found = measure()
        others = watch.others()
        row = self.store.add(**key, **found, others=round(others, 4), clean=others < MOST_OTHERS)
        told = f"{found['seconds']:.3f} s" if "seconds" in found else ""
        disturbed = "" if row["clean"] else f" (disturbed: others used {others:.0%})"
        say(" ".join(str(value) for value in key.values()) + f": {told}{disturbed}")
        if not row["clean"]:
            wait_for_quiet(10.0 * self.patience)
        return row


def say(text: str) -> None:
    """To a person who waits."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def texts_of(shape: str, workload: str) -> Path:
    """The file of a workload's texts in a shape's own tokens, made if it is not there."""
    path = BENCH / "texts" / f"{shape}-{workload}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        count, limit = counter(shape), SHAPES[shape].limit
        texts = make_texts(WORKLOADS[workload].lengths, words(), count)
        path.write_text(json.dumps(texts), encoding="utf-8")
        lengths = [min(count(text), limit) for text in texts]
        path.with_suffix(".lengths").write_text(json.dumps(lengths), encoding="utf-8")
    return path


def counter(shape: str) -> Callable[[str], int]:
    """Tokens of a text by a shape's tokenizer, special tokens included."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder_of(SHAPES[shape]) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text).ids)


def lengths_of(shape: str, workload: str) -> list[int]:
    """Tokens of each text of a workload, as far as the model takes them."""
    found: list[int] = json.loads(texts_of(shape, workload).with_suffix(".lengths").read_text())
    return found


def log_of(name: str) -> Path:
    return BENCH / "logs" / f"{name}.log"


def speed(bench: Bench, shape: str, places: dict[str, tuple[int, tuple[str, ...]]]) -> None:
    """Seconds of every workload by every engine; all are resident and take turns, one at work at a time."""
    every = {name for _, names in places.values() for name in names}
    if all(_enough(bench, shape, workload, *place) for workload, place in places.items()):
        return
    folder, exports = folder_of(SHAPES[shape]), exports_of(SHAPES[shape], every)
    with ExitStack() as stack:
        processes: dict[str, WorkerProcess | None] = {}

        def process_of(engine: Engine) -> WorkerProcess | None:
            """Loaded; None if it could not be, which is told and kept once."""
            owner = ENGINES[engine.shares or engine.name]
            if owner.name not in processes:
                processes[owner.name] = _loaded(bench, shape, owner, folder, exports, stack)
            return processes[owner.name]

        for workload, (wanted, names) in places.items():
            request = _request(shape, workload)
            failed: set[str] = set()
            for attempt in range(wanted * (1 + bench.patience) + 1):
                for name in names:
                    if bench.over or name in failed or _clean(bench, shape, workload, name) >= wanted:
                        continue
                    process = process_of(ENGINES[name])
                    if process is None or _is_float32(bench, shape, name):
                        failed.add(name)
                        continue
                    asked = request_of(ENGINES[name], folder, exports) | request
                    key = {"kind": "speed", "shape": shape, "workload": workload, "engine": name}
                    try:
                        if not bench.store.find(**{**key, "kind": "count"}):
                            _first(bench, process, asked, key, wanted)
                        else:
                            bench.sample(lambda p=process, a=asked: _run(p, a), **key, round=attempt)
                    except WorkerError as error:
                        say(str(error))
                        bench.store.add(**{**key, "kind": "failure"}, error=str(error))
                        failed.add(name)


def _first(
    bench: Bench, process: WorkerProcess, asked: dict[str, Any], key: dict[str, Any], wanted: int
) -> None:
    """The first run of a workload by an engine: warms up, counts what is computed, keeps the vectors."""
    save = BENCH / "vectors" / f"{key['shape']}-{key['workload']}-{key['engine']}.npy"
    save.parent.mkdir(parents=True, exist_ok=True)
    watch = Watch()
    answer = process.ask(do="run", **asked, count=True, save=str(save))
    others, seconds = watch.others(), answer["seconds"][0]
    bench.store.add(**{**key, "kind": "count"}, computed=answer["computed"], seconds=seconds)
    say(f"{key['shape']} {key['workload']} {key['engine']}: first run {seconds:.3f} s")
    if seconds > bench.long:
        bench.store.add(**key, seconds=seconds, others=round(others, 4), clean=others < MOST_OTHERS, round=-1)


def _run(process: WorkerProcess, asked: dict[str, Any]) -> dict[str, Any]:
    """The median of as many runs as a sample takes."""
    return {"seconds": statistics.median(process.ask(do="run", **asked, least=LEAST_SECONDS)["seconds"])}


def _request(shape: str, workload: str) -> dict[str, Any]:
    found = WORKLOADS[workload]
    limit = min(found.max_length, SHAPES[shape].limit)
    return {"texts": str(texts_of(shape, workload)), "max_length": limit}


def _loaded(
    bench: Bench, shape: str, engine: Engine, folder: Path, exports: Path, stack: ExitStack
) -> WorkerProcess | None:
    if not runnable(engine, exports):
        return None
    process = stack.enter_context(WorkerProcess(engine, log_of(engine.name), CACHE))
    try:
        answer = process.ask(do="load", **request_of(engine, folder, exports))
    except WorkerError as error:
        say(str(error))
        bench.store.add(kind="failure", shape=shape, engine=engine.name, error=str(error))
        return None
    bench.store.add(kind="load", shape=shape, engine=engine.name, facts=answer["facts"])
    return process


def _is_float32(bench: Bench, shape: str, name: str) -> bool:
    """Whether a plan of Tercet's came out the same as float32's, which is measured anyway."""
    if name != "tercet-auto":
        return False
    schemes = [
        {row["facts"]["scheme"] for row in bench.store.find(kind="load", shape=shape, engine=engine)}
        for engine in ("tercet", name)
    ]
    return bool(schemes[0]) and schemes[0] == schemes[1]


def _clean(bench: Bench, shape: str, workload: str, engine: str) -> int:
    rows = bench.store.find(kind="speed", shape=shape, workload=workload, engine=engine, clean=True)
    return len(rows)


def _enough(bench: Bench, shape: str, workload: str, wanted: int, names: Iterable[str]) -> bool:
    return all(_clean(bench, shape, workload, name) >= wanted for name in names)


def cold(bench: Bench, shape: str, names: Sequence[str], wanted: int) -> None:
    """Seconds from starting a process to the first vector of one query; the files are in the page cache."""
    folder, exports = folder_of(SHAPES[shape]), exports_of(SHAPES[shape], names)
    request = _request(shape, "query")
    # The files' pages are read once before anything is timed; Tercet's very first start is told apart.
    read_through(folder)
    for attempt in range(wanted * (1 + bench.patience)):
        for name in names:
            engine = ENGINES[name]
            if bench.over or not runnable(engine, exports):
                continue
            asked = request_of(engine, folder, exports) | request
            if engine.worker == "tercet" and not bench.store.find(kind="first start", shape=shape):
                fresh = BENCH / "cache-of-a-first-start"
                shutil.rmtree(fresh, ignore_errors=True)
                _cold_sample(bench, engine, asked, fresh, kind="first start", shape=shape, engine=name)
                # What it remembers from here on is what the following starts find.
                _cold_sample(bench, engine, asked, CACHE, kind="preparation", shape=shape, engine=name)
            if len(bench.store.find(kind="cold", shape=shape, engine=name, clean=True)) < wanted:
                _cold_sample(
                    bench, engine, asked, CACHE, kind="cold", shape=shape, engine=name, round=attempt
                )


def _cold_sample(bench: Bench, used: Engine, asked: dict[str, Any], cache: Path, **key: Any) -> None:
    def start() -> dict[str, Any]:
        with WorkerProcess(used, log_of(used.name), cache) as process:
            loaded = process.ask(do="load", **asked)
            ran = process.ask(do="run", **asked)
            total = time.perf_counter() - process.started
        parts = {"imports": loaded["imports"], "load": loaded["load"], "first": ran["seconds"][0]}
        return {"seconds": total, **parts, "status": ran["status"]}

    try:
        bench.sample(start, **key)
    except WorkerError as error:
        say(str(error))
        bench.store.add(**{**key, "kind": "failure"}, error=str(error))


def memory(bench: Bench, shape: str, dtype: str, names: Sequence[str], workload: str) -> None:
    """Peaks of RssAnon and VmHWM while a model is loaded from a file of a dtype and embeds a workload."""
    folder = folder_of(SHAPES[shape], dtype)
    for name in names:
        key = {"kind": "memory", "shape": shape, "file": dtype, "engine": name, "workload": workload}
        if bench.over or bench.store.find(**key):
            continue
        asked = request_of(ENGINES[name], folder, BENCH) | _request(shape, workload)
        try:
            with WorkerProcess(ENGINES[name], log_of(name), CACHE, watch_memory=True) as process:
                loaded = process.ask(do="load", **asked)
                ran = process.ask(do="run", **asked)
                row = {"loaded": loaded["status"], "ran": ran["status"], "facts": loaded["facts"]}
                bench.store.add(**key, peak_anonymous=process.peak_anonymous, **row)
                say(f"memory {shape} {dtype} {name}: {process.peak_anonymous / 1e6:,.0f} MB anonymous")
        except WorkerError as error:
            say(str(error))
            bench.store.add(**{**key, "kind": "failure"}, error=str(error))


def drift(bench: Bench, names: Sequence[str], most_texts: int | None) -> None:
    """1 - cosine of MiniLM's dense vectors on a corpus, against sentence-transformers in float64."""
    import numpy as np

    texts = corpus()[:most_texts]
    folder = folder_of(SHAPES["minilm"])
    exports = exports_of(SHAPES["minilm"], names)
    where = BENCH / "drift"
    where.mkdir(parents=True, exist_ok=True)
    path = where / f"texts-{len(texts)}.json"
    path.write_text(json.dumps(texts), encoding="utf-8")
    request = {"texts": str(path), "max_length": SHAPES["minilm"].limit}

    def vectors(engine: Engine, save: Path, **options: Any) -> Any:
        asked = request_of(engine, folder, exports) | request | options
        with WorkerProcess(engine, log_of(engine.name), CACHE) as process:
            process.ask(do="load", **asked)
            process.ask(do="run", **asked, save=str(save))
        return np.load(save).astype(np.float64)

    reference = where / f"float64-{len(texts)}.npy"
    if not reference.exists():
        say(f"float64 reference of {len(texts)} texts ...")
        aside = where / "part.npy"
        vectors(ENGINES["st"], aside, dtype="float64")
        aside.rename(reference)
    exact = np.load(reference)
    for name in names:
        key = {"kind": "drift", "engine": name, "texts": len(texts)}
        if bench.over or bench.store.find(**key) or not runnable(ENGINES[name], exports):
            continue
        try:
            found = vectors(ENGINES[name], where / f"{name}.npy")
        except WorkerError as error:
            say(str(error))
            bench.store.add(**{**key, "kind": "failure"}, error=str(error))
            continue
        cosine = (found * exact).sum(1)
        cosine /= np.linalg.norm(found, axis=1) * np.linalg.norm(exact, axis=1)
        bench.store.add(**key, mean=float((1 - cosine).mean()), worst=float((1 - cosine).max()))
        say(f"drift {name}: mean {(1 - cosine).mean():.1e}, worst {(1 - cosine).max():.1e}")


def read_through(folder: Path) -> None:
    """Read every file, so that its pages are in memory."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 24):
                    pass
