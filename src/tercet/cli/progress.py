"""How far a run is: a bar at a terminal, figures for the end, and the peak of memory."""

from __future__ import annotations

__all__ = ["Progress", "peak_memory"]

import sys
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tercet.precision.memory import peak_process_memory

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


class Progress:
    """Counts texts and tokens, and shows a bar if standard error is a terminal. A context manager."""

    def __init__(self, what: str, *, measurable: bool, unit: str = "texts") -> None:
        """Starts the clock.

        Args:
            what: stands before the bar.
            measurable: whether `advance` is told how much is done; only then is the time left known.
            unit: what is counted beside tokens.
        """
        self._unit = unit
        self.texts = 0
        self.tokens = 0
        self._start = perf_counter()
        self._end: float | None = None
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        if sys.stderr.isatty():
            self._bar = _bar()
            self._task = self._bar.add_task(what, total=1.0 if measurable else None, rate="")

    def advance(self, texts: int, tokens: int, done: float | None) -> None:
        """Counts on; `done` is the part of the input that is finished, from 0 to 1."""
        self.texts += texts
        self.tokens += tokens
        if self._bar is not None and self._task is not None:
            rates = (self.texts / max(self.seconds, 1e-9), self.tokens / max(self.seconds, 1e-9))
            rate = f"{self.texts:,} {self._unit} · {rates[0]:,.0f} {self._unit}/s"
            if self.tokens:
                rate += f" · {rates[1]:,.0f} tokens/s"
            self._bar.update(self._task, completed=done, rate=rate)

    def describe(self, what: str) -> None:
        """Stands before the bar from now on."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=what)

    @property
    def seconds(self) -> float:
        """Since the start, or from the start to the end."""
        return (perf_counter() if self._end is None else self._end) - self._start

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end = perf_counter()
        if self._bar is not None:
            self._bar.stop()


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=Console(stderr=True),
        transient=True,
    )


def peak_memory(device: str = "cpu") -> tuple[int, int | None]:
    """Most bytes so far that this process had resident, and that torch had on `device` (None: the CPU)."""
    return peak_process_memory(), _peak_on(device)


def _peak_on(device: str) -> int | None:
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.max_memory_allocated(device)
