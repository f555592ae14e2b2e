"""Files that appear under their name only when they are whole."""

from __future__ import annotations

__all__ = ["Aside", "Sink", "Stdout", "writing"]

import errno
import os
import secrets
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from tercet.errors import OutputError

_BUFFER_BYTES = 2**20
_MENDS = {
    errno.ENOSPC: "The disk is full: free some space, or write to another disk.",
    errno.EDQUOT: "The disk quota is used up: free some space, or write to another disk.",
    errno.EFBIG: "The file would be larger than this file system or `ulimit -f` allows; use another one.",
    errno.EACCES: "The folder may not be written to: change its permissions, or write elsewhere.",
    errno.EPERM: "The folder may not be written to: change its permissions, or write elsewhere.",
    errno.EROFS: "The file system is read-only: write elsewhere.",
    errno.ENOENT: "The folder is not there: make it first.",
}


class Sink(Protocol):
    """Where the bytes of one result go."""

    path: Path
    file: BinaryIO

    def commit(self) -> None:
        """Makes what was written the result."""

    def discard(self) -> None:
        """Throws away what was written; nothing after `commit`."""


class Aside:
    """A hidden file beside `path` that takes its place on `commit`; an older file there stays until then."""

    def __init__(self, path: Path) -> None:
        """Opens the hidden file.

        Raises:
            OutputError: it cannot be made.
        """
        # A link keeps pointing where it pointed: the file behind it is replaced.
        self.path = Path(os.path.realpath(path))
        self._hidden = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        # Before the file is made: a signal may come at any moment, also before anyone can call `discard`.
        self._remove = weakref.finalize(self, _remove, self._hidden, os.getpid())
        with writing(self.path):
            self.file: BinaryIO = self._hidden.open("xb", buffering=_BUFFER_BYTES)

    def commit(self) -> None:
        """Brings the bytes to the disk, then renames the file."""
        with writing(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            self._hidden.replace(self.path)
            _sync_folder(self.path.parent)

    def discard(self) -> None:
        """Removes the hidden file."""
        # Closing writes what is buffered, which fails again where the disk is full.
        with suppress(OSError):
            self.file.close()
        self._remove()


class Stdout:
    """The standard output, for a result that goes into a pipe."""

    def __init__(self) -> None:
        self.path = Path("standard output")
        self.file: BinaryIO = sys.stdout.buffer

    def commit(self) -> None:
        """Sends what is buffered."""
        with writing(self.path):
            self.file.flush()

    def discard(self) -> None:
        """Nothing can be taken back from a pipe."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the system's errors of what is written inside into an OutputError with the mend."""
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of a pipe went away, which is its right
    except OSError as error:
        mend = _MENDS.get(error.errno or 0, "Check the folder and the disk.")
        reason = error.strerror or str(error)
        raise OutputError(f"{path}: cannot be written ({reason}). {mend}") from error


def _remove(hidden: Path, owner: int) -> None:
    # A forked child has the object as well, but the file is its parent's.
    if os.getpid() == owner:
        hidden.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Brings the rename itself to the disk, where the file system can do so."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
