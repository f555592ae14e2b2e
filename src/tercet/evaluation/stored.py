"""Reports of earlier runs, kept under everything that decides a figure, and never under a model's name."""

from __future__ import annotations

__all__ = ["key_of", "recall", "remember"]

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tercet.cache import cache_folder, read_json, write_json
from tercet.evaluation.report import Report


def key_of(parts: Mapping[str, Any]) -> str:
    """A hash of everything in `parts`, in whichever order it stands."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def recall(key: str) -> Report | None:
    """The report that was kept under a key, or None; a damaged one is forgotten."""
    found = read_json(f"{key}.json", folder=_folder())
    # As a string, so that systems and metrics keep their order in a cache that sorts its keys.
    if not isinstance(found, dict) or not isinstance(found.get("report"), str):
        return None
    try:
        return Report.from_json(json.loads(found["report"]))
    except (ValueError, RecursionError):
        return None


def remember(key: str, report: Report) -> None:
    """Keeps a report; a full or read-only disk costs the next run time, never this one its answer."""
    write_json(f"{key}.json", {"report": json.dumps(report.to_json())}, folder=_folder())


def _folder() -> Path:
    return cache_folder() / "evaluations"
