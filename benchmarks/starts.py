"""Cold starts, and the memory that loading and running takes: each sample in a process of its own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines import ENGINES, SHAPES, Engine, request_of
from measure import CACHE, Bench, log_of, request_for, say, why_absent
from models import BENCH, exports_of, folder_of, runnable
from processes import TimeUpError, WorkerError, WorkerProcess


class _Absent(Exception):
    """An engine that is not worth measuring here; why was kept."""


def cold(bench: Bench, shape: str, names: Sequence[str], wanted: int) -> None:
    """Seconds from starting a process to the first vector of one query; the files are in the page cache.

    Tercet's very first start, which probes the machine and packs weights, is told apart.
    """
    folder, exports = folder_of(SHAPES[shape]), exports_of(SHAPES[shape], names)
    request, failed = request_for(shape, "query"), set[str]()
    read_through(folder)
    for attempt in range(wanted * (1 + bench.patience)):
        for name in names:
            engine, key = ENGINES[name], {"shape": shape, "engine": name}
            done = bench.store.find(kind="cold", **key, clean=True)
            known = bench.store.find(kind="cold", **key)
            likely = max((row["seconds"] for row in known), default=0.0)
            if (
                name in failed
                or len(done) >= wanted
                or not bench.fits(likely)
                or not runnable(engine, exports)
            ):
                continue
            asked = request_of(engine, folder, exports) | request
            try:
                if engine.worker == "tercet" and not bench.store.find(kind="preparation", **key):
                    fresh = BENCH / "cache-of-a-first-start"
                    shutil.rmtree(fresh, ignore_errors=True)
                    _start(bench, engine, asked, fresh, kind="first start", **key)
                    # What it remembers from here on is what the following starts find.
                    _start(bench, engine, asked, CACHE, kind="preparation", **key)
                _start(bench, engine, asked, CACHE, kind="cold", **key, round=attempt)
            except TimeUpError as error:
                say(str(error))
                return
            except WorkerError as error:
                bench.failed(error, kind="cold", **key)
                failed.add(name)
            except _Absent:
                failed.add(name)


def _start(bench: Bench, used: Engine, asked: dict[str, Any], cache: Path, **key: Any) -> None:
    def start() -> dict[str, Any]:
        with WorkerProcess(used, log_of(used.name), cache, until=bench.end) as process:
            loaded = process.ask(do="load", **asked)
            _check(bench, used, key["shape"], loaded["facts"])
            ran = process.ask(do="run", **asked)
            total = time.perf_counter() - process.started
        parts = {"imports": loaded["imports"], "load": loaded["load"], "first": ran["seconds"][0]}
        # What is asked only to be printed belongs to no start.
        return {"seconds": total - loaded["told"], **parts, "status": ran["status"]}

    bench.sample(start, **key)


def _check(bench: Bench, used: Engine, shape: str, facts: dict[str, Any]) -> None:
    """Raises _Absent for an engine that is not worth measuring here."""
    reason = why_absent(used, facts)
    if reason is not None:
        say(f"{shape} {used.name}: {reason}")
        bench.note(kind="absent", shape=shape, engine=used.name, reason=reason)
        raise _Absent


def memory(bench: Bench, shape: str, dtype: str, names: Sequence[str], workload: str) -> None:
    """Peaks of RssAnon and VmHWM while a model is loaded from a file of a dtype and embeds a workload.

    Weights that Tercet packs were packed before, by a start that is not measured.
    """
    folder = folder_of(SHAPES[shape], dtype)
    for name in names:
        engine = ENGINES[name]
        key = {"kind": "memory", "shape": shape, "file": dtype, "engine": name, "workload": workload}
        if bench.over or bench.store.find(**key):
            continue
        asked = request_of(engine, folder, BENCH) | request_for(shape, workload)
        try:
            if engine.worker == "tercet" and engine.options["precision"] != "float32":
                with WorkerProcess(engine, log_of(name), CACHE, until=bench.end) as process:
                    _check(bench, engine, shape, process.ask(do="load", **asked)["facts"])
            with WorkerProcess(engine, log_of(name), CACHE, watch_memory=True, until=bench.end) as process:
                loaded = process.ask(do="load", **asked)
                ran = process.ask(do="run", **asked)
                row = {"loaded": loaded["status"], "ran": ran["status"], "facts": loaded["facts"]}
                bench.keep(**key, peak_anonymous=process.peak_anonymous, **row)
                say(f"memory {shape} {dtype} {name}: {process.peak_anonymous / 1e6:,.0f} MB anonymous")
        except TimeUpError as error:
            say(str(error))
            return
        except WorkerError as error:
            bench.failed(error, **key)
        except _Absent:
            continue


def read_through(folder: Path) -> None:
    """Read every file, so that its pages are in memory."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 24):
                    pass
