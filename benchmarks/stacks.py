"""Measures every kind of stack against the library it was made for, and writes docs/stacks.md.

    make stacks                               # within 15 minutes, environments made before
    make stacks STACKS="--only splade,lstm"   # some of them
    python benchmarks/stacks.py --try         # tiny models: does the program work?
    python benchmarks/stacks.py --page        # the page anew from the samples that are there

For each stack: how far each of Tercet's schemes is from the live peer in float32, the memory that loading
takes in a fresh process, and texts a second beside the peer's in the same run, taking turns. Samples are kept
in build/bench; the same command goes on from there while machine, versions and source stay the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import environments
import machine
import measure
import models
from engines import PEERS, ROOT, Engine
from processes import TimeUpError, WorkerError, WorkerProcess
from samples import Row, Store, key_of
from stack_kinds import LONGEST, SCHEMES, STACKS, TEXTS, Stack, engines_of
from stacks_page import text_of
from workloads import make_texts, mixed_lengths, words

HERE = Path(__file__).resolve().parent
TESTS = ROOT / "tests"
# What decides how a stack is made.
MADE_BY = (
    HERE / "make_stacks.py",
    *(
        TESTS / f"{name}.py"
        for name in ("tiny", "tiny_modules", "tiny_reranker", "tiny_sparse", "static_models")
    ),
)
SECONDS = 14 * 60.0
ROUNDS = 3
# Slower than this many times float32 is emulated, and not what anybody would run.
SLOWEST = 2.0
EMULATED = "emulated here"


def main() -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help=f"separated by commas: {', '.join(STACKS)}")
    parser.add_argument(
        "--schemes", default=",".join(SCHEMES), help="of Tercet, separated by commas; by default %(default)s"
    )
    parser.add_argument("--minutes", type=float, help="end after so many; the same again goes on from there")
    parser.add_argument("--fresh", action="store_true", help="forget the samples that are there")
    parser.add_argument("--page", action="store_true", help="write the page, measure nothing")
    parser.add_argument("--try", action="store_true", dest="attempt", help="tiny models, one round")
    parser.add_argument("--out", type=Path, help="the page; docs/stacks.md by default")
    options = parser.parse_args()
    names = tuple(name for name in options.only.split(",") if name) or tuple(STACKS)
    for name in names:
        if name not in STACKS:
            sys.exit(f"--only: there is no {name!r}; there are {', '.join(STACKS)}.")
    schemes = tuple(scheme for scheme in options.schemes.split(",") if scheme)
    for scheme in schemes:
        if scheme not in SCHEMES:
            sys.exit(f"--schemes: there is no {scheme!r}; there are {', '.join(SCHEMES)}.")
    form = "try" if options.attempt else "full"
    page = options.out or (models.BENCH / "try-stacks.md" if options.attempt else ROOT / "docs" / "stacks.md")
    note = ""
    if options.page:
        store = newest(form)
    else:
        identity = {"machine": machine.machine(), "versions": machine.versions(), "code": code()}
        path = models.BENCH / f"stacks-{form}-{key_of(identity)}.json"
        store = Store(path, identity, fresh=options.fresh)
        environments.prepare(PEERS)
        for name in names:
            folder_of(name, small=options.attempt)
        bench = measure.Bench(
            store,
            seconds=options.minutes * 60 if options.minutes else SECONDS,
            patience=0 if options.attempt else 2,
            waiting=120.0,
            code=None if options.attempt else code,
            started=started,
        )
        note = run(bench, names, schemes, 1 if options.attempt else ROUNDS, small=options.attempt)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text_of(store, note), encoding="utf-8")
    print(f"wrote {page}", file=sys.stderr)
    if note:
        sys.exit(note)


def code() -> str:
    """A hash of what is measured, and of how stacks are made and measured."""
    return machine.code() + models.digest(HERE / "stacks.py", *MADE_BY)


def newest(form: str) -> Store:
    """The latest samples that are there, whatever machine and source they are of."""
    paths = sorted(models.BENCH.glob(f"stacks-{form}-*.json"), key=lambda path: path.stat().st_mtime)
    if not paths:
        sys.exit(f"{models.BENCH}: no samples are there. Run it without --page.")
    with paths[-1].open(encoding="utf-8") as file:
        return Store(paths[-1], json.loads(file.readline())["identity"])


def folder_of(name: str, *, small: bool) -> Path:
    """The checkpoint of a stack, made if it is not there."""
    folder = models.BENCH / "models" / f"stack-{name}{'-small' if small else ''}"
    made_by = models.digest(*MADE_BY)
    if not models.up_to_date(folder, made_by):
        measure.say(f"making {folder.name}")
        command = [sys.executable, str(HERE / "make_stacks.py"), "--kind", name, "--out", str(folder)]
        subprocess.run([*command, "--small"] if small else command, check=True)
        models.stamp_of(folder).write_text(made_by, encoding="utf-8")
    return folder


def texts_of(folder: Path) -> Path:
    """The file of texts, of so many tokens of this tokenizer; of so many words where there is none."""
    path = models.BENCH / "texts" / f"{folder.name}-{TEXTS}-{LONGEST}.json"
    from tokenizers import Tokenizer

    files = [*folder.glob("tokenizer.json"), *folder.glob("*/tokenizer.json"), folder / "modules.json"]
    if path.exists() and path.stat().st_mtime > files[0].stat().st_mtime:
        return path
    tokenizer = Tokenizer.from_file(str(files[0])) if files[1:] else None
    lengths = [min(length, LONGEST) for length in mixed_lengths(TEXTS)]
    texts = make_texts(
        lengths, words(), lambda text: len(tokenizer.encode(text).ids if tokenizer else text.split())
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(texts), encoding="utf-8")
    return path


def run(
    bench: measure.Bench, names: Sequence[str], schemes: tuple[str, ...], rounds: int, *, small: bool
) -> str:
    """Measure every stack; what a reader must know if it ended early."""
    try:
        _probe(bench, names[0], small=small)
        for name in names:
            try:
                measured(bench, STACKS[name], engines_of(STACKS[name], schemes), rounds, small=small)
            except TimeUpError:
                raise
            except WorkerError as error:
                # One worker that ends is no reason to measure no other stack.
                measure.say(str(error))
                bench.note(kind="failure", stack=name, engine=error.engine, reason=error.words)
    except TimeUpError as error:
        measure.say(str(error))
        bench.cut = True
    except (measure.StoppedError, WorkerError) as error:
        return str(error)
    if bench.cut:
        return "The time was up before all was measured. Run the same again: it goes on from here."
    return ""


def _probe(bench: measure.Bench, name: str, *, small: bool) -> None:
    """Let Tercet measure this machine once, which it remembers: no part of any load."""
    if not bench.store.find(kind="probed"):
        stack = STACKS[name]
        _, engine = engines_of(stack, ("float32",))
        with WorkerProcess(engine, measure.log_of("stack-probe"), measure.CACHE, until=bench.end) as process:
            request = {"folder": str(folder_of(name, small=small)), "call": stack.call}
            process.ask(do="load", **request, **engine.options)
        bench.keep(kind="probed")


def measured(
    bench: measure.Bench, stack: Stack, engines: Sequence[Engine], rounds: int, *, small: bool
) -> None:
    """All of one stack: every engine loaded in a process of its own, then taking turns."""
    for engine in engines:
        reason = emulated(bench.store, engine)
        if reason is not None and stack.multiplies:
            bench.note(kind="absent", stack=stack.name, engine=engine.name, reason=reason)
    engines = [engine for engine in engines if not absent(bench.store, stack, engine)]
    if all(clean(bench.store, stack, engine) >= rounds for engine in engines):
        return
    folder = folder_of(stack.name, small=small)
    request = {"folder": str(folder), "call": stack.call, "texts": str(texts_of(folder)), "max_length": 128}
    with ExitStack() as exits:
        residents: dict[str, WorkerProcess] = {}
        for engine in engines:
            if not bench.fits(15.0):
                return
            process = loaded(bench, stack, engine, request, exits)
            if process is not None:
                residents[engine.name] = process
        if "peer" in residents:
            compared(bench, stack, residents, engines, request)
        for attempt in range(rounds * (1 + bench.patience)):
            for engine in engines:
                done = clean(bench.store, stack, engine)
                if engine.name not in residents or done >= rounds or not bench.fits(2.0):
                    continue
                asked = {**request, **engine.options}
                bench.sample(
                    lambda process=residents[engine.name], asked=asked: _once(process, asked),
                    kind="speed",
                    stack=stack.name,
                    engine=engine.name,
                    round=attempt,
                )


def _once(process: WorkerProcess, asked: dict[str, Any]) -> dict[str, Any]:
    """The median of as many runs as take 0.7 s: less could not be told from what disturbs it."""
    return {"seconds": statistics.median(process.ask(do="run", **asked, least=0.7)["seconds"])}


def loaded(
    bench: measure.Bench, stack: Stack, engine: Engine, request: dict[str, Any], exits: ExitStack
) -> WorkerProcess | None:
    """A process with the model, whose peak while it loaded is kept; None where the scheme does not run here.

    What Tercet packs once is packed by a start before, which is not measured. `exits` ends the process.
    """
    key = {"stack": stack.name, "engine": engine.name}
    asked = {**request, **engine.options}
    log = measure.log_of(f"stack-{engine.worker}")
    packs = engine.worker == "stack_tercet" and engine.name != "float32"
    if packs and not bench.store.find(kind="packed", **key):
        with WorkerProcess(engine, log, measure.CACHE, until=bench.end) as process:
            if answered(bench, stack, process, asked, key) is None:
                return None
        bench.keep(kind="packed", **key)
    process = exits.enter_context(
        WorkerProcess(engine, log, measure.CACHE, watch_memory=True, until=bench.end)
    )
    answer = answered(bench, stack, process, asked, key)
    if answer is None:
        process.close()
        return None
    # The first look may come late; what the process says of itself at the end is no less.
    peak = max(process.peak_anonymous, answer["status"].get("RssAnon", 0))
    bench.note(kind="facts", **key, **answer["facts"])
    if not bench.store.find(kind="load", **key):
        seconds = {part: answer[part] for part in ("imports", "load")}
        bench.keep(kind="load", **key, peak=peak, **seconds)
    measure.say(f"{stack.name} {engine.name}: loaded, {peak / 1e6:,.0f} MB")
    return process


def answered(
    bench: measure.Bench, stack: Stack, process: WorkerProcess, asked: dict[str, Any], key: Row
) -> dict[str, Any] | None:
    """The answer to "load"; None where it cannot be, or only by emulation, which is kept as a row."""
    try:
        answer = process.ask(do="load", **asked)
    except TimeUpError:
        raise
    except WorkerError as error:
        measure.say(str(error))
        kind = "absent" if error.kind == "PrecisionError" else "failure"
        bench.note(kind=kind, **key, reason=error.words)
        return None
    slower = answer["facts"].get("slower")
    if slower is not None and slower > SLOWEST and stack.multiplies and key["engine"] != "float32":
        reason = f"{EMULATED}, {slower:.1f} times as slow as float32"
        measure.say(f"{key['stack']} {key['engine']}: {reason}")
        bench.note(kind="absent", **key, reason=reason)
        return None
    return answer


def compared(
    bench: measure.Bench,
    stack: Stack,
    residents: dict[str, WorkerProcess],
    engines: Iterable[Engine],
    request: dict[str, Any],
) -> None:
    """Each engine's first runs, which warm it up; its outputs are held against the peer's."""
    import numpy as np

    folder = models.BENCH / "vectors" / bench.store.key
    folder.mkdir(parents=True, exist_ok=True)
    theirs = None
    for engine in engines:
        if engine.name not in residents:
            continue
        path = folder / f"stack-{stack.name}-{engine.name}.npy"
        asked = {**request, **engine.options}
        try:
            residents[engine.name].ask(do="run", **asked)
            # The peer's CNN and LSTM see the padding of a batch: each text is in one of its own.
            residents[engine.name].ask(do="run", **asked, save=str(path), batch_size=1)
        except TimeUpError:
            raise
        except WorkerError as error:
            measure.say(str(error))
            bench.note(kind="failure", stack=stack.name, engine=engine.name, reason=error.words)
            residents.pop(engine.name).close()
            continue
        found = np.load(path).astype(np.float64).ravel()
        if engine.name == "peer":
            theirs = found
        elif theirs is not None and not bench.store.find(kind="apart", stack=stack.name, engine=engine.name):
            same = found.shape == theirs.shape
            apart = float(np.abs(found - theirs).max()) if same else None
            largest = float(np.abs(theirs).max())
            bench.keep(
                kind="apart",
                stack=stack.name,
                engine=engine.name,
                apart=apart,
                largest=largest,
                of=len(found),
            )


def emulated(store: Store, engine: Engine) -> str | None:
    """Why a scheme is not worth measuring on this machine, if another stack has told."""
    rows = store.find(kind="absent", engine=engine.name)
    return next((row["reason"] for row in rows if row["reason"].startswith(EMULATED)), None)


def absent(store: Store, stack: Stack, engine: Engine) -> bool:
    return bool(store.find(kind="absent", stack=stack.name, engine=engine.name))


def clean(store: Store, stack: Stack, engine: Engine) -> int:
    return len(store.find(kind="speed", stack=stack.name, engine=engine.name, clean=True))


if __name__ == "__main__":
    main()
