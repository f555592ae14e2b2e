"""Folders that are being written, and what killed runs left: who writes a folder has a lock on it."""

from __future__ import annotations

__all__ = ["held_folder", "remove_abandoned"]

import glob
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

_SUFFIX = re.compile(r"\.[0-9a-f]{8}\.part")


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Makes the folder, locked while the block lasts and this process lives; it may be renamed meanwhile."""
    fresh = folder.with_suffix(".new")
    lock = None
    try:
        fresh.mkdir(parents=True)
        # Locked before it has the name by which others look for it.
        lock = _lock(fresh)
        fresh.rename(folder)
        yield
    finally:
        if fresh.is_dir():
            fresh.rmdir()
        if lock is not None:
            os.close(lock)


def remove_abandoned(folder: Path) -> None:
    """Removes the folders `.<name>.<8 hex digits>.part` beside `folder` that nobody writes any more."""
    start = f".{folder.name}"
    for found in folder.parent.glob(f"{glob.escape(start)}.*.part"):
        if found.is_symlink() or not found.is_dir() or not _SUFFIX.fullmatch(found.name[len(start) :]):
            continue
        lock = _lock(found)
        if lock is None:
            continue
        try:
            shutil.rmtree(found, ignore_errors=True)
        finally:
            os.close(lock)
        logger.warning("removed %s, which a run that was killed had left", found)


def _lock(folder: Path) -> int | None:
    """The open folder with a lock on it; None where another has it, or the file system knows no locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        opened = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        return None
    return opened
