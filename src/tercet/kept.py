"""What Tercet keeps in the user's cache folder: how much of it there is, and how it goes."""

from __future__ import annotations

__all__ = ["KINDS", "Kept", "clear", "kept"]

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tercet.cache import cache_folder
from tercet.errors import OutputError, UnknownNameError, nearest

# Kind -> how names in the cache folder begin that belong to it. A file that is being written has a dot before
# its name. What is called otherwise is not ours to remove: another version may have put it there.
KINDS: Mapping[str, tuple[str, ...]] = {
    "probes": ("probe-",),
    "weights": ("weights",),
    "models": ("models",),
    "results": ("evaluations", "audits", "verdicts"),
}


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one kind.

    Attributes:
        kind: one of `KINDS`.
        places: the files and folders directly in the cache folder that belong to it.
        files: how many files these are and hold.
        bytes: how many bytes they have.
    """

    kind: str
    places: tuple[Path, ...]
    files: int
    bytes: int


def kept() -> list[Kept]:
    """What is there of each kind, in the order of `KINDS`."""
    return [_kept(kind) for kind in KINDS]


def clear(kind: str) -> Kept:
    """Remove what is kept of one kind; all of it can be made again, and is when it is needed.

    A running process goes on with what it has mapped.

    Returns:
        What was there.

    Raises:
        UnknownNameError: there is no such kind.
        OutputError: something cannot be removed.
    """
    found = _kept(kind)
    folders = []
    for path in (path for place in found.places for path in _tree(place)):
        if _is_folder(path):
            folders.append(path)
            continue
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"{path} cannot be removed: {error.strerror or error}. Remove it by hand, or as the user "
                "to whom it belongs."
            ) from error
    for folder in reversed(folders):
        with suppress(OSError):  # another process just put something there
            folder.rmdir()
    return found


def _kept(kind: str) -> Kept:
    if kind not in KINDS:
        raise UnknownNameError(f"Nothing of the kind {kind!r} is kept. {nearest(kind, KINDS)}")
    places = tuple(path for path in _entries(cache_folder()) if path.name.lstrip(".").startswith(KINDS[kind]))
    sizes = []
    for path in (path for place in places for path in _tree(place)):
        with suppress(OSError):  # it went while we looked
            if not _is_folder(path):
                sizes.append(path.lstat().st_size)
    return Kept(kind, places, len(sizes), sum(sizes))


def _tree(place: Path) -> Iterator[Path]:
    """A place and all that is in it, folders before what they hold; links are not followed."""
    yield place
    if _is_folder(place):
        for path in _entries(place):
            yield from _tree(path)


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, by name; nothing where it is not there or may not be read."""
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder))
    except OSError:
        return []


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
