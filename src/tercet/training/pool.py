"""Texts that negatives are found among: each once, by number, and none of them in memory."""

from __future__ import annotations

__all__ = ["Pool"]

import hashlib
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

from tercet.storage.aside import writing


class Pool:
    """Distinct texts in the order in which they first came; some hundred bytes of memory each."""

    def __init__(self, texts: Iterable[str], *, folder: str | Path | None = None) -> None:
        """Reads the texts once, and copies them to a file without a name.

        Args:
            texts: what to choose among.
            folder: where that file lies; None for the system's temporary folder.

        Raises:
            OutputError: the disk is full.
        """
        self._numbers: dict[bytes, int] = {}
        self._ends = array("q", [0])
        where = None if folder is None else str(folder)
        with tempfile.TemporaryFile(dir=where) as file, writing(Path("the copy of the pool")):
            for text in texts:
                data = text.encode()
                digest = hashlib.blake2b(data, digest_size=16).digest()
                if digest not in self._numbers:
                    self._numbers[digest] = len(self._numbers)
                    file.write(data)
                    self._ends.append(self._ends[-1] + len(data))
            file.flush()
            self._file = os.dup(file.fileno())
        self.close = weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> str:
        start, end = self._ends[number], self._ends[number + 1]
        return os.pread(self._file, end - start, start).decode()

    def __iter__(self) -> Iterator[str]:
        return (self[number] for number in range(len(self)))

    def number(self, text: str) -> int | None:
        """Which of the texts this is; None of one that is not among them."""
        return self._numbers.get(hashlib.blake2b(text.encode(), digest_size=16).digest())
