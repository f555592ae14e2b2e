"""Records of a data set's files, one at a time, each with the place where it stands."""

from __future__ import annotations

__all__ = ["Record", "file_hash", "read_fields", "read_records"]

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.errors import InputError, kind_of
from tercet.storage.lines import Lines


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON object of a file.

    Attributes:
        where: its file and line, for messages.
        values: its keys and values.
    """

    where: str
    values: Mapping[str, Any]

    def text(self, *keys: str) -> str:
        """The string under the first of these keys that is there; it may be empty."""
        key = self._first(keys)
        value = self.values[key]
        if not isinstance(value, str):
            raise InputError(f"{self.where}: {key!r} is {_shown(value)}; it must be a string.")
        return value

    def id(self, *keys: str) -> str:
        """The id under the first of these keys that is there; a whole number is taken as its digits.

        No id holds white space: run and judgement files separate their columns by it.
        """
        key = self._first(keys)
        value = self.values[key]
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value or any(map(str.isspace, value)):
            raise InputError(
                f"{self.where}: the id {key!r} is {_shown(value)}; it must be a string without white space, "
                "and not an empty one."
            )
        return value

    def grade(self, *keys: str) -> int:
        """The whole number under the first of these keys that is there."""
        key = self._first(keys)
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
            raise InputError(f"{self.where}: {key!r} is {_shown(value)}; a grade must be a whole number.")
        return int(value)

    def items(self, *keys: str) -> list[Any]:
        """The list under the first of these keys that is there, or an empty one."""
        for key in keys:
            if key in self.values:
                value = self.values[key]
                if not isinstance(value, list):
                    raise InputError(f"{self.where}: {key!r} is {_shown(value)}; it must be a list.")
                return value
        return []

    def has(self, *keys: str) -> bool:
        """Whether one of these keys is there."""
        return any(key in self.values for key in keys)

    def _first(self, keys: Sequence[str]) -> str:
        for key in keys:
            if key in self.values:
                return key
        named = " or ".join(map(repr, keys))
        there = ", ".join(self.values) or "none"
        raise InputError(f"{self.where}: there is no key {named}; its keys: {there}.")


def read_records(path: Path) -> Iterator[Record]:
    """The JSON objects of a .jsonl file, which may be gzipped; blank lines are passed over.

    Raises:
        InputError: while reading, for a line that is no JSON object of valid Unicode, with its place.
    """
    for where, line in _lines(path):
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}, column {error.colno}: not JSON ({error.msg}).") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not usable JSON ({error}).") from error
        if not isinstance(values, dict):
            raise InputError(
                f"{where}: {_shown(values)}, where each line must be an object such as "
                '{"_id": "1", "text": "..."}.'
            )
        if "\\ud" in line.lower():  # half of a surrogate pair, which only an escape can bring
            try:
                json.dumps(values, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                raise InputError(f"{where}: it holds half of a surrogate pair; remove it.") from error
        yield Record(where, values)


def read_fields(path: Path, separator: str | None = "\t") -> Iterator[tuple[str, list[str]]]:
    """(place, fields) of each line of a .tsv or TREC file, which may be gzipped; blank lines are passed over.

    Args:
        path: the file.
        separator: between fields; None for any white space. Nothing is quoted.
    """
    for where, line in _lines(path):
        yield where, line.rstrip("\r\n").split(separator)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    lines = Lines(str(path))
    try:
        for line in lines:
            if not line.isspace():
                yield lines.where, line
    finally:
        lines.close()


def file_hash(path: Path) -> str:
    """The sha256 of a file's bytes, read anew each time."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _shown(value: Any) -> str:
    return "null" if value is None else f"{kind_of(value)} ({str(value)[:40]!r})"
