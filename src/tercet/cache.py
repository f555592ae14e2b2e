"""Small JSON notes in the user's cache folder: what was measured or computed once and can be made again."""

from __future__ import annotations

__all__ = ["cache_folder", "read_json", "write_json"]

import json
import logging
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where this platform keeps what a program can make again; not created before something is written.

    The user's own setting is the platform's: XDG_CACHE_HOME on Linux.
    """
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "tercet"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "tercet" / "Cache"
    named = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is to be ignored.
    return (Path(named) if os.path.isabs(named) else Path.home() / ".cache") / "tercet"


def read_json(name: str, *, folder: Path | None = None) -> Any:
    """What was remembered under a file name, or None: missing and damaged files are all forgotten.

    Args:
        name: file name, e.g. "probe.json".
        folder: instead of `cache_folder()`.
    """
    path = (folder or cache_folder()) / name
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        logger.info("%s cannot be used and is forgotten: %s", path, error)
        return None


def write_json(name: str, value: Any, *, folder: Path | None = None) -> bool:
    """Remember a value under a file name: written aside, then renamed, so that no reader sees half of it.

    Returns:
        Whether it was written: a cache on a full or read-only disk costs time, never an answer.
    """
    folder = folder or cache_folder()
    aside: str | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, sort_keys=True)
        os.replace(aside, folder / name)
    except OSError as error:
        logger.info("%s could not be written: %s", folder / name, error)
        if aside is not None:
            with suppress(OSError):
                os.unlink(aside)
        return False
    return True
