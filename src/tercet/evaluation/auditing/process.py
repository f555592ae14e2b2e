"""The other end of a worker: starts it, asks it, ends it."""

from __future__ import annotations

__all__ = ["Worker", "WorkerFailed"]

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_SHOWN = 2000  # characters of what a worker that died had to say


class WorkerFailed(Exception):
    """A scheme that does not run; the message is the worker's own."""


class Worker:
    """A process that holds one model. A context manager: the process ends with it."""

    def __init__(self) -> None:
        """Starts it."""
        home = str(Path(__file__).parents[3])
        paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tercet.evaluation.auditing.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """The answer to one command.

        Raises:
            WorkerFailed: it has a reason not to answer, or died.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerFailed(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()[-_SHOWN:]
        last = said.splitlines()[-1] if said else "it said nothing"
        why = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
        killed = ", probably for want of memory" if code == -9 else ""
        return f"its process {why}{killed}: {last}"

    def close(self) -> None:
        """Ends it."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue  # what was left to be said to it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
