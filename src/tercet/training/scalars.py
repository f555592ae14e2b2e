"""Figures of every step, a JSON object a line, each step once however often a run was broken off."""

from __future__ import annotations

__all__ = ["Scalars"]

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tercet.storage.aside import writing
from tercet.training.event_files import EventFiles


class Scalars:
    """scalars.jsonl in a run's folder, and event files of TensorBoard beside it where they are asked for.

    Raises:
        MissingExtraError: event files are asked for, and tensorboardX is not installed.
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        self.path = folder / "scalars.jsonl"
        self._events = EventFiles(folder) if tensorboard else None

    def begin(self, step: int) -> None:
        """Leaves lines up to this step alone: those behind the state that a run goes on from come again.

        Raises:
            OutputError: it cannot be written.
        """
        if self._events is not None:
            self._events.begin(step)
        if not self.path.is_file():
            return
        kept = [
            line for line in self.path.read_text(encoding="utf-8").splitlines() if 0 < _step(line) <= step
        ]
        with writing(self.path):
            aside = self.path.with_suffix(".part")
            aside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            aside.replace(self.path)

    def add(self, values: Mapping[str, Any]) -> None:
        """Appends a line.

        Raises:
            OutputError: it cannot be written.
        """
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
        if self._events is not None:
            self._events.add(values)

    def close(self) -> None:
        """Ends what is open; lines that come later are an error of the caller."""
        if self._events is not None:
            self._events.close()


def _step(line: str) -> int:
    """The step that a line is of; 0 of one that was broken off."""
    try:
        values = json.loads(line)
    except ValueError:
        return 0
    step = values.get("step") if isinstance(values, dict) else None
    return step if isinstance(step, int) else 0
