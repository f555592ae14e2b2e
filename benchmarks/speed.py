"""Seconds of every workload by every engine; all are resident and take turns, one at work at a time."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import Any

from engines import ENGINES, SHAPES, Engine, Meetings, request_of
from measure import CACHE, Bench, log_of, request_for, say, vectors_of, why_absent
from models import exports_of, folder_of, runnable
from processes import TimeUpError, WorkerError, WorkerProcess
from quiet import MOST_OTHERS, Watch
from samples import Store
from workloads import WORKLOADS

# A sample lasts at least so long, or /proc/stat's hundredths of a second could not tell who disturbed it.
LEAST_SECONDS = 0.7
Places = dict[str, tuple[int, tuple[str, ...]]]


class Residents:
    """The workers of one shape, each started when it is first needed; a context manager that ends them."""

    def __init__(self, bench: Bench, shape: str, engines: set[str]) -> None:
        self.bench, self.shape = bench, shape
        self.folder, self.exports = folder_of(SHAPES[shape]), exports_of(SHAPES[shape], engines)
        # (workload, engine) that the workers have run: the first time warms up, in every process anew.
        self.warm: set[tuple[str, str]] = set()
        self._found: dict[str, WorkerProcess | None] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Residents:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def of(self, engine: Engine) -> WorkerProcess | None:
        """With the model loaded; None if it could not be, or is not worth it, which is told and kept once."""
        owner = ENGINES[engine.shares or engine.name]
        if owner.name not in self._found:
            self._found[owner.name] = self._loaded(owner)
        return self._found[owner.name]

    def request(self, engine: Engine, workload: str) -> dict[str, Any]:
        """What the engine's worker is asked to embed the workload."""
        return request_of(engine, self.folder, self.exports) | request_for(self.shape, workload)

    def forget(self, engine: Engine) -> None:
        """Start its worker anew when it is next needed: this one is not to be trusted any more."""
        owner = engine.shares or engine.name
        process = self._found.pop(owner, None)
        if process is not None:
            process.close()
        self.warm = {
            (workload, name) for workload, name in self.warm if owner not in (name, ENGINES[name].shares)
        }

    def _loaded(self, engine: Engine) -> WorkerProcess | None:
        bench, key = self.bench, {"shape": self.shape, "engine": engine.name}
        if not runnable(engine, self.exports):
            bench.note(kind="absent", **key, reason=f"its graph {engine.graph} could not be exported")
            return None
        process = self._stack.enter_context(
            WorkerProcess(engine, log_of(engine.name), CACHE, until=bench.end)
        )
        try:
            answer = process.ask(do="load", **request_of(engine, self.folder, self.exports))
        except TimeUpError:
            raise
        except WorkerError as error:
            bench.failed(error, kind="load", **key)
            process.close()
            return None
        reason = why_absent(engine, answer["facts"])
        if reason is not None:
            say(f"{self.shape} {engine.name}: {reason}")
            bench.note(kind="absent", **key, reason=reason)
            process.close()
            return None
        bench.note(kind="load", **key, facts=answer["facts"])
        return process


def speed(bench: Bench, shape: str, places: Places) -> None:
    """Every workload of a shape, round by round, until each engine has the clean samples that are wanted."""
    if not missing(bench.store, {shape: places}) or bench.over:
        return
    every = {name for _, names in places.values() for name in names}
    with Residents(bench, shape, every) as residents:
        for workload, (wanted, names) in places.items():
            failed: set[str] = set()
            for attempt in range(wanted * (1 + bench.patience) + 1):
                for name in names:
                    if name in failed or _clean(bench.store, shape, workload, name) >= wanted:
                        continue
                    if not bench.fits(expected(bench.store, shape, workload, name)):
                        continue
                    try:
                        if not _once(bench, residents, workload, name, wanted, attempt):
                            failed.add(name)
                    except TimeUpError as error:
                        say(str(error))
                        return


def _once(bench: Bench, residents: Residents, workload: str, name: str, wanted: int, attempt: int) -> bool:
    """One run of a workload by an engine; False where it cannot be."""
    engine, shape = ENGINES[name], residents.shape
    process = residents.of(engine)
    if process is None or _same_as_another(bench.store, shape, name):
        return False
    asked = residents.request(engine, workload)
    key = {"kind": "speed", "shape": shape, "workload": workload, "engine": name}
    try:
        if (workload, name) not in residents.warm:
            _first(bench, process, asked, key)
            residents.warm.add((workload, name))
        else:
            bench.sample(lambda: _run(process, asked), **key, round=attempt)
    except TimeUpError:
        raise
    except WorkerError as error:
        bench.failed(error, **key)
        residents.forget(engine)
        return False
    return True


def _first(bench: Bench, process: WorkerProcess, asked: dict[str, Any], key: dict[str, Any]) -> None:
    """The first run of a workload by an engine: warms up, counts what is computed, keeps the vectors."""
    save = vectors_of(bench.store, key["shape"], key["workload"], key["engine"])
    save.parent.mkdir(parents=True, exist_ok=True)
    watch = Watch()
    answer = process.ask(do="run", **asked, count=True, save=str(save))
    others, seconds = watch.others(), answer["seconds"][0]
    bench.keep(**{**key, "kind": "count"}, computed=answer["computed"], seconds=seconds)
    say(f"{key['shape']} {key['workload']} {key['engine']}: first run {seconds:.3f} s")
    if seconds > bench.long:
        clean = others < MOST_OTHERS
        bench.keep(**key, seconds=seconds, others=round(others, 4), clean=clean, round=-1)
        if not clean and bench.patience:
            bench.wait(others)


def _run(process: WorkerProcess, asked: dict[str, Any]) -> dict[str, Any]:
    """The median of as many runs as a sample takes."""
    return {"seconds": statistics.median(process.ask(do="run", **asked, least=LEAST_SECONDS)["seconds"])}


def _same_as_another(store: Store, shape: str, name: str) -> bool:
    """Whether a plan of Tercet's came out the same as that of a precision which is measured anyway."""
    if name != "tercet-auto":
        return False
    rows = store.find(kind="load", shape=shape)
    schemes = {row["engine"]: row["facts"].get("scheme") for row in rows}
    mine = schemes.pop(name, None)
    return mine is not None and mine in schemes.values()


def _clean(store: Store, shape: str, workload: str, engine: str) -> int:
    return len(store.find(kind="speed", shape=shape, workload=workload, engine=engine, clean=True))


def missing(store: Store, meetings: Meetings) -> int:
    """Clean samples that are still wanted, of engines that run here as far as is known."""
    number = 0
    for shape, places in meetings.items():
        absent = {row["engine"] for row in store.find(kind="absent", shape=shape)}
        for workload, (wanted, names) in places.items():
            for name in names:
                owner = ENGINES[name].shares or name
                if owner not in absent and not _same_as_another(store, shape, name):
                    number += max(0, wanted - _clean(store, shape, workload, name))
    return number


def expected(store: Store, shape: str, workload: str, engine: str) -> float:
    """Seconds that a run will take, by what is known of this engine; 0 where nothing is.

    From the same run; else from the same texts in fewer or more layers; else by the tokens of other texts.
    """

    def known(where: str, what: str) -> float | None:
        rows = [
            row["seconds"]
            for kind in ("speed", "count")
            for row in store.find(kind=kind, shape=where, workload=what, engine=engine)
        ]
        return max(rows, default=None)

    same = known(shape, workload)
    if same is not None:
        return max(same, LEAST_SECONDS)
    layers = SHAPES[shape].layers
    for other in SHAPES.values():
        if layers and other.layers and other.name != shape and (found := known(other.name, workload)):
            return found * layers / other.layers
    tokens = sum(WORKLOADS[workload].lengths)
    for other in WORKLOADS.values():
        if other.name != workload and (found := known(shape, other.name)):
            return found * tokens / sum(other.lengths)
    return 0.0
