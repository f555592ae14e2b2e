"""A worker in a process of its own: requests and answers as JSON lines, and its peak of anonymous memory."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from engines import Engine, python_of

WORKERS = Path(__file__).resolve().parent / "workers"
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "true",
    "PYTHONWARNINGS": "ignore",
}


class WorkerError(RuntimeError):
    """The worker answered with an error, or ended."""


class WorkerProcess:
    """Started when made; a context manager that ends it.

    Args:
        engine: whose worker and environment.
        log: where its stderr goes.
        cache: the cache folder it sees, where Tercet remembers its probes.
        watch_memory: whether to look at RssAnon every few milliseconds.
    """

    def __init__(self, engine: Engine, log: Path, cache: Path, *, watch_memory: bool = False) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.engine, self.log, self.peak_anonymous = engine, log, 0
        self.started = time.perf_counter()
        with log.open("a", encoding="utf-8") as errors:
            self.process = subprocess.Popen(
                [python_of(engine), str(WORKERS / f"{engine.worker}_worker.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | QUIET | {"XDG_CACHE_HOME": str(cache)},
            )
        if watch_memory:
            threading.Thread(target=self._watch, daemon=True).start()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            WorkerError: with the worker's own words.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"{self.engine.name}: the worker ended; its last words are in {self.log}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.engine.name}: {answer['error']}; more in {self.log}")
        return answer

    def close(self) -> None:
        """End the worker; it is killed if it does not end by itself."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _watch(self) -> None:
        path = Path(f"/proc/{self.process.pid}/status")
        while self.process.poll() is None:
            try:
                text = path.read_text()
            except OSError:
                return
            for line in text.splitlines():
                if line.startswith("RssAnon"):
                    self.peak_anonymous = max(self.peak_anonymous, int(line.split()[1]) * 1024)
            time.sleep(0.01)
