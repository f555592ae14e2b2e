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
    """The worker answered with an error, or ended.

    Attributes:
        engine: whose worker.
        kind: the type of the worker's exception; None where it ended without an answer.
    """

    def __init__(self, engine: str, words: str, kind: str | None = None) -> None:
        super().__init__(f"{engine}: {words}")
        self.engine, self.words, self.kind = engine, words, kind


class TimeUpError(WorkerError):
    """The worker was ended in the middle of its work: the time for measuring was up."""


class WorkerProcess:
    """Started when made; a context manager that ends it.

    Args:
        engine: whose worker and environment.
        log: where its stderr goes.
        cache: the cache folder it sees, where Tercet remembers its probes.
        watch_memory: whether to look at RssAnon every few milliseconds.
        until: by `time.monotonic()`: an answer that is not there by then is not waited for.
    """

    def __init__(
        self,
        engine: Engine,
        log: Path,
        cache: Path,
        *,
        watch_memory: bool = False,
        until: float | None = None,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.engine, self.log, self.peak_anonymous, self.until = engine, log, 0, until
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
            TimeUpError: the worker did not answer in time, and was ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        timer = None
        if self.until is not None:
            timer = threading.Timer(max(0.0, self.until - time.monotonic()), self.process.kill)
            timer.start()
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            if timer is not None:
                timer.cancel()
        if not line:
            if self.until is not None and time.monotonic() >= self.until:
                raise TimeUpError(self.engine.name, "was ended in the middle of its work: the time was up")
            raise WorkerError(self.engine.name, f"the worker ended; its last words are in {self.log}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind, words = answer["kind"], answer["error"]
            raise WorkerError(
                self.engine.name, words if kind == "PrecisionError" else f"{kind}: {words}", kind
            )
        return answer

    def close(self) -> None:
        """End the worker; it is killed if it does not end by itself."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

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
