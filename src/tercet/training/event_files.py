"""Figures of every step as TensorBoard reads them: event files, written by tensorboardX."""

from __future__ import annotations

__all__ = ["EventFiles"]

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from time import time
from typing import Any

from tercet.extras import require
from tercet.storage.aside import writing


class EventFiles:
    """The folder `tensorboard` of a run, with a file for each time that the run was begun or taken up again.

    Args:
        folder: of the run; nothing is written before `begin`.

    Raises:
        MissingExtraError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tensorboard"
        library = require("tensorboardX", extra="tensorboard", purpose="`tensorboard: true` in a recipe")
        self._event = library.proto.event_pb2.Event
        self._session = library.proto.event_pb2.SessionLog
        self._scalar = library.summary.scalar
        # Not SummaryWriter: it writes in a thread, and a run waits for ever where that ended, on a full disk.
        self._open = library.event_file_writer.EventsWriter
        self._file: Any = None

    def begin(self, step: int) -> None:
        """Opens a new file, and has TensorBoard hide what older ones hold behind this step.

        Raises:
            OutputError: it cannot be written.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            # The library names files by the second; a number tells those of one second apart.
            number = len(list(self.folder.glob("events.*")))
            self._file = self._open(str(self.folder / "events"), f".{number:04d}")
            again = self._session(status=self._session.START)
            self._write(self._event(step=step + 1, session_log=again))

    def add(self, values: Mapping[str, Any]) -> None:
        """The numbers of one step, each under its name; TensorBoard groups by what stands before a slash.

        Raises:
            OutputError: it cannot be written.
        """
        with writing(self.folder):
            for name, value in values.items():
                if name not in ("step", "epoch") and isinstance(value, int | float) and isfinite(value):
                    self._write(self._event(step=values["step"], summary=self._scalar(name, value)))

    def close(self) -> None:
        """Ends the file, if one is open; `add` is not to be called again before `begin`."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, event: Any) -> None:
        event.wall_time = time()
        self._file.write_event(event)
        self._file.flush()
