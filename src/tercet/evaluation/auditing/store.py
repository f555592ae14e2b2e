"""What an audit has finished, on disk: an interrupted one goes on from there."""

from __future__ import annotations

__all__ = ["SchemeFolder", "Store"]

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tercet.cache import cache_folder, read_json, write_json
from tercet.errors import OutputError
from tercet.evaluation.audit_result import AuditRow
from tercet.precision.plan import Plan
from tercet.storage.aside import writing

_ROWS, _CLOCK = "rows.json", "clock.json"


class Store:
    """The folder of one audit, named by everything that decides a figure."""

    def __init__(self, key: Mapping[str, Any]) -> None:
        """Opens it, or makes it.

        Raises:
            OutputError: it cannot be made.
        """
        self.folder = cache_folder() / "audits" / _digest(key)
        self.resumed = self.folder.is_dir() and any(self.folder.iterdir())
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    def scheme(self, plan: Plan, role: str = "") -> SchemeFolder:
        """The folder of one scheme; of its run over a sample where `role` says so."""
        said = {
            "scheme": plan.scheme.to_json(),
            "precision": plan.precision.to_json(),
            "kernel": plan.kernel,
            "device": plan.device,
            "token_budget": plan.token_budget,
            "float32_layers": list(plan.float32_layers),
            "role": role,
        }
        folder = self.folder / _digest(said)
        with writing(folder):
            folder.mkdir(exist_ok=True)
        return SchemeFolder(folder)

    @property
    def seconds(self) -> float:
        """That earlier, interrupted audits took."""
        found = read_json(_CLOCK, folder=self.folder)
        seconds = found.get("seconds") if isinstance(found, dict) else None
        return float(seconds) if isinstance(seconds, int | float) else 0.0

    def note_seconds(self, seconds: float) -> None:
        """Remembers what was spent, for an audit that goes on from here."""
        write_json(_CLOCK, {"seconds": seconds}, folder=self.folder)

    def clear(self) -> None:
        """Removes everything: the audit is done."""
        shutil.rmtree(self.folder, ignore_errors=True)


class SchemeFolder:
    """What is finished of one scheme: parts of embeddings, and its rows at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def part(self, role: str, number: int) -> Path:
        """Where the embeddings of some queries or documents are, or will be."""
        return self.folder / f"{role}-{number:06d}.safetensors"

    def parts(self, role: str) -> list[Path]:
        """Those that are there, in their order."""
        return sorted(self.folder.glob(f"{role}-*.safetensors"))

    def notes(self, name: str) -> dict[str, Any] | None:
        """What was noted under a name."""
        found = read_json(name, folder=self.folder)
        return found if isinstance(found, dict) else None

    def note(self, name: str, value: Mapping[str, Any]) -> None:
        """Notes plain values under a name."""
        if not write_json(name, dict(value), folder=self.folder):
            raise OutputError(f"{self.folder}: cannot be written. Free some space in the cache folder.")

    def rows(self) -> tuple[AuditRow, ...] | None:
        """The finished rows."""
        found = self.notes(_ROWS)
        return None if found is None else tuple(AuditRow.from_json(row) for row in found["rows"])

    def finish(self, rows: Sequence[AuditRow], *, keep: bool) -> None:
        """Keeps the rows, and the embeddings only where others are compared with them."""
        self.note(_ROWS, {"rows": [asdict(row) for row in rows]})
        if not keep:
            for path in self.folder.glob("*.safetensors"):
                path.unlink(missing_ok=True)


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:24]
