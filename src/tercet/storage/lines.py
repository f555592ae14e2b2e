"""Lines of UTF-8 from a file, a gzip file or the standard input: bounded, and located when they are wrong."""

from __future__ import annotations

__all__ = ["MAX_LINE_BYTES", "STDIN", "Lines"]

import gzip
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from tercet.errors import InputError

STDIN = "-"
MAX_LINE_BYTES = 64 * 2**20  # so that a file without line ends is an error, and not all of the memory


class Lines:
    """Lines with their ends, one at a time; a byte-order mark is left out.

    Attributes:
        name: the file, for messages.
        number: of the line that was read last, from 1; 0 before the first.
    """

    def __init__(self, path: str, *, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        """Opens the file, or the standard input for "-".

        Raises:
            InputError: it is not there, a folder, or may not be read.
        """
        if path == STDIN and sys.stdin is None:
            raise InputError("The standard input is closed. Give it a file or a pipe, or name a file.")
        self.name = "standard input" if path == STDIN else path
        self.number = 0
        self._max_line_bytes = max_line_bytes
        self._offset = 0
        self._raw: BinaryIO = sys.stdin.buffer if path == STDIN else open_file(path)
        self._stream = (
            cast(BinaryIO, gzip.GzipFile(fileobj=self._raw)) if path.lower().endswith(".gz") else self._raw
        )
        # A pipe or a device has no size, so nobody can tell how much is left of it.
        status = os.fstat(self._raw.fileno()) if path != STDIN else None
        self._size = status.st_size if status is not None and stat.S_ISREG(status.st_mode) else None

    def __iter__(self) -> Iterator[str]:
        while line := self._read():
            self.number += 1
            if len(line) > self._max_line_bytes:
                raise InputError(
                    f"{self.where}: the line is longer than {self._max_line_bytes / 2**20:.0f} MiB. "
                    "Is it a text file with one text a line? Split it, or check the format."
                )
            yield self._decode(line)
            self._offset += len(line)

    @property
    def where(self) -> str:
        """The line that was read last, for messages."""
        return f"{self.name}, line {self.number}"

    @property
    def offset(self) -> int:
        """Where the line that was read last begins, in bytes of the text; of an iteration that goes on."""
        return self._offset

    def done(self) -> float | None:
        """The part of the file that was read, from 0 to 1; None where its size is unknown."""
        return None if self._size is None else min(1.0, self._raw.tell() / max(self._size, 1))

    def close(self) -> None:
        """Closes the file; the standard input stays open."""
        if self._size is not None or self.name != "standard input":
            self._stream.close()
            self._raw.close()

    def _read(self) -> bytes:
        try:
            return self._stream.readline(self._max_line_bytes + 1)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise InputError(
                f"{self.name}: the gzip data is damaged after line {self.number} ({error}). "
                "Fetch or compress the file again."
            ) from error
        except OSError as error:
            raise InputError(f"{self.name}: cannot be read after line {self.number} ({error}).") from error

    def _decode(self, line: bytes) -> str:
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self.where}: byte {self._offset + error.start} of the file (0x{line[error.start]:02x}) "
                "is not UTF-8. Convert it first, for example: iconv -f WINDOWS-1252 -t UTF-8 IN > OUT"
            ) from error
        return text.removeprefix("\ufeff") if self.number == 1 else text


def open_file(path: str) -> BinaryIO:
    """The file, opened for reading bytes, or an error that says why not."""
    try:
        return Path(path).open("rb")
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file. Check the path; '-' stands for the standard input."
        ) from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a folder. Give one of the files in it.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}).") from error
