"""What all measurements share: the store, the time that is left, a quiet machine, workers, texts.

`speed`, `starts` and `drift` hold the measurements themselves.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines import SHAPES, Engine
from models import BENCH, digest, folder_of
from processes import WorkerError
from quiet import MOST_OTHERS, Watch, wait_for_quiet
from samples import Row, Store
from workloads import WORKLOADS, make_texts, words

CACHE = BENCH / "cache"
# A precision that was asked for and takes longer than so many times float32 is emulated: it would be measured
# for hours, and say nothing.
SLOWEST = 2.0


class StoppedError(RuntimeError):
    """Measuring ends early; every sample so far is kept, and the page is written."""


@dataclass
class Bench:
    """What all measurements share.

    Attributes:
        store: where samples go.
        seconds: after so many no new sample is begun; None for no limit.
        patience: how often a disturbed sample is repeated.
        long: a first run warms up and is thrown away, unless it takes so many seconds that warmth cannot
            matter.
        waiting: seconds that all waits for a quiet machine may take together.
        code: the hash of the source as it is now; None where it cannot change.
        started: by `time.monotonic()`.
        cut: whether anything was left out because it would not have ended in time.
    """

    store: Store
    seconds: float | None = None
    patience: int = 2
    long: float = 20.0
    waiting: float = 600.0
    code: Callable[[], str] | None = None
    started: float = field(default_factory=time.monotonic)
    cut: bool = False

    @property
    def end(self) -> float | None:
        """When the time is up, by `time.monotonic()`."""
        return None if self.seconds is None else self.started + self.seconds

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return not self.fits(0.0)

    def fits(self, expected: float) -> bool:
        """Whether something that takes so many seconds would end in time."""
        fits = self.end is None or time.monotonic() + expected < self.end
        self.cut = self.cut or not fits
        return fits

    def keep(self, **row: Any) -> Row:
        """Keep a row, unless the source is not what it was when the store was begun.

        Raises:
            StoppedError: it is not; this row belongs to no state in particular.
        """
        if self.code is not None and self.code() != self.store.identity["code"]:
            raise StoppedError(
                "The source changed while it was measured, and samples of two states are never mixed. What "
                "was measured before is kept; run again to measure the source as it is now."
            )
        return self.store.add(**row)

    def note(self, **row: Any) -> None:
        """Keep a row that says something once, however often it is said."""
        if not self.store.find(**row):
            self.keep(**row)

    def failed(self, error: WorkerError, **key: Any) -> None:
        """Keep what a worker said: that a precision does not run here, or that something went wrong."""
        say(str(error))
        if error.kind == "PrecisionError":
            self.note(kind="absent", shape=key.get("shape"), engine=key["engine"], reason=error.words)
        else:
            self.note(**{**key, "of": key["kind"], "kind": "failure"}, error=error.words)

    def sample(self, measure: Callable[[], dict[str, Any]], **key: Any) -> Row:
        """One measurement, kept with what others used of the CPU meanwhile.

        Raises:
            StoppedError: others keep the CPU busy, and there was waiting enough.
        """
        # The threads of the engine before may still spin in wait for more.
        time.sleep(0.1)
        watch = Watch()
        found = measure()
        others = watch.others()
        row = self.keep(**key, **found, others=round(others, 4), clean=others < MOST_OTHERS)
        told = f"{found['seconds']:.3f} s" if "seconds" in found else ""
        disturbed = "" if row["clean"] else f" (disturbed: others used {others:.0%})"
        say(" ".join(str(value) for value in key.values()) + f": {told}{disturbed}")
        if not row["clean"] and self.patience:
            self.wait(others)
        return row

    def wait(self, others: float) -> None:
        """Wait for a quiet machine as long as there is patience left.

        Args:
            others: the share of the CPU that other processes used during the last sample.

        Raises:
            StoppedError: there is none left.
        """
        started = time.monotonic()
        quiet = wait_for_quiet(min(10.0 * self.patience, self.waiting))
        self.waiting -= time.monotonic() - started
        if not quiet and self.waiting <= 0:
            rows = [row for row in self.store.rows if "clean" in row]
            disturbed = sum(not row["clean"] for row in rows)
            raise StoppedError(
                f"Other processes keep the CPU busy ({others:.0%} of it during the last sample): {disturbed} "
                f"of {len(rows)} samples were disturbed, and all the waiting for a quiet machine is used up. "
                "What was measured is kept; end the other processes and run again, it goes on from here."
            )


def say(text: str) -> None:
    """To a person who waits."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def why_absent(engine: Engine, facts: dict[str, Any]) -> str | None:
    """Why an engine that was loaded is not measured; None where it is."""
    asked, slower = engine.options.get("precision"), facts.get("slower")
    if engine.worker != "tercet" or asked in ("auto", "float32") or slower is None or slower <= SLOWEST:
        return None
    return (
        f"nothing here computes {asked} natively: {facts['scheme']} would take {slower:.1f} times as long as "
        "float32, and is not measured"
    )


def texts_of(shape: str, workload: str) -> Path:
    """The file of a workload's texts in a shape's own tokens, made if it is not there."""
    made_by = digest(Path(__file__).with_name("workloads.py"))
    path = BENCH / "texts" / f"{shape}-{workload}-{made_by}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        count, limit = counter(shape), SHAPES[shape].limit
        texts = make_texts(WORKLOADS[workload].lengths, words(), count)
        lengths = [min(count(text), limit) for text in texts]
        path.with_suffix(".lengths").write_text(json.dumps(lengths), encoding="utf-8")
        # Last: where it is, the lengths are too.
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps(texts), encoding="utf-8")
        aside.replace(path)
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


def request_for(shape: str, workload: str) -> dict[str, Any]:
    """What a request to embed a workload carries, whoever embeds it."""
    limit = min(WORKLOADS[workload].max_length, SHAPES[shape].limit)
    return {"texts": str(texts_of(shape, workload)), "max_length": limit}


def log_of(name: str) -> Path:
    return BENCH / "logs" / f"{name}.log"


def vectors_of(store: Store, shape: str, workload: str, engine: str) -> Path:
    """Where the vectors that belong to a store's samples lie."""
    return BENCH / "vectors" / store.key / f"{shape}-{workload}-{engine}.npy"
