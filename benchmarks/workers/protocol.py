"""What every worker shares: requests and answers as JSON lines over stdin and stdout. Standard library alone.

A worker is a class with `imports()`, `load(request)`, `facts()`, `run(texts, request)` and
`counting(texts, request)`; `serve` does the rest. Requests:

    {"do": "load", "folder": ..., ...}                       -> {"imports": s, "load": s, "facts": {...}, ...}
        also "told": the seconds that saying the facts took, and "status"
    {"do": "run", "texts": PATH, "outputs": "dense", ...}    -> {"seconds": [...], "status": {...}}
        "least": again and again for so many seconds, once by default; "count": also say what was computed;
        "save": where the dense vectors go (.npy)
    {"do": "quit"}
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

Request = dict[str, Any]


class Worker(Protocol):
    """One engine in one process."""

    def imports(self) -> None:
        """Import what the engine needs."""

    def load(self, request: Request) -> None:
        """Load the model."""

    def facts(self) -> dict[str, Any]:
        """What to print of what was loaded: versions, the plan."""

    def run(self, texts: Sequence[str], request: Request) -> Any:
        """Embed the texts; (texts, dim) of the dense vectors as numpy."""

    def counting(self, texts: Sequence[str], request: Request) -> AbstractContextManager[dict[str, int]]:
        """Around one run; holds {"computed": tokens that the encoder was given, padding too} after it."""


def serve(worker: Worker) -> None:
    """Answer requests until stdin ends."""
    # Libraries print; the answers have a channel of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "quit":
            break
        try:
            answer = _answer(worker, request)
        except Exception as error:  # the parent prints it and goes on with the other engines
            traceback.print_exc()
            answer = {"error": str(error), "kind": type(error).__name__}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(worker: Worker, request: Request) -> dict[str, Any]:
    if request["do"] == "load":
        started = perf_counter()
        worker.imports()
        imported = perf_counter()
        worker.load(request)
        done = perf_counter()
        found, facts = status(), worker.facts()
        told = perf_counter() - done
        times = {"imports": imported - started, "load": done - imported, "told": told}
        return {**times, "facts": facts, "status": found}
    texts = json.loads(Path(request["texts"]).read_text(encoding="utf-8"))
    seconds: list[float] = []
    vectors = None
    with worker.counting(texts, request) if request.get("count") else nullcontext({}) as counts:
        while not seconds or sum(seconds) < request.get("least", 0.0):
            started = perf_counter()
            vectors = worker.run(texts, request)
            seconds.append(perf_counter() - started)
    answer: dict[str, Any] = {"seconds": seconds, "status": status(), **counts}
    if request.get("save"):
        import numpy as np

        np.save(request["save"], np.asarray(vectors))
    return answer


def status() -> dict[str, int]:
    """Bytes of VmHWM and RssAnon of this process; empty where there is no /proc."""
    path = Path("/proc/self/status")
    if not path.exists():
        return {}
    pairs = (line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines())
    return {name: int(value.split()[0]) * 1024 for name, value in pairs if name in ("VmHWM", "RssAnon")}
