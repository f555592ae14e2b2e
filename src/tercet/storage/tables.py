"""Tables of texts: .txt, .jsonl, .csv, .tsv and .parquet behind one face, row by row, in constant memory."""

from __future__ import annotations

__all__ = ["FORMATS", "Table", "open_table"]

import csv
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import PurePath
from typing import Any, Protocol

from tercet.errors import InputError, kind_of, nearest
from tercet.storage.lines import MAX_LINE_BYTES, STDIN, Lines

FORMATS = ("txt", "jsonl", "csv", "tsv", "parquet")
_SUFFIXES = {
    **{name: name for name in FORMATS},
    "ndjson": "jsonl",
    "tab": "tsv",
    "text": "txt",
    "pq": "parquet",
}


class Table(Protocol):
    """Named columns, read once from the first row to the last."""

    @property
    def name(self) -> str:
        """The file, for messages."""

    @property
    def columns(self) -> Sequence[str]:
        """Names of all columns."""

    @property
    def text_columns(self) -> Sequence[str]:
        """Names of the columns that hold strings."""

    @property
    def where(self) -> str:
        """The row that was read last, for messages."""

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """The values of these columns, row by row; call it once."""

    def done(self) -> float | None:
        """The part that was read, from 0 to 1; None where nobody can tell."""

    def close(self) -> None:
        """Closes the file."""


def open_table(path: str, *, format: str | None = None) -> Table:
    """The table in a file, or on the standard input ("-").

    Args:
        path: the file; `.gz` behind the suffix of a text format is understood.
        format: one of `FORMATS`; None goes by the suffix.

    Raises:
        InputError: no such file, an unknown format, or a file that is not in that format.
    """
    format = format or _format_of(path)
    if format not in FORMATS:
        raise InputError(f"There is no input format {format!r}. {nearest(format, FORMATS)}")
    if format == "parquet":
        # The library is slow to import, and only this format needs it.
        from tercet.storage.parquet_table import ParquetTable

        return ParquetTable(path)
    lines = Lines(path)
    try:
        if format == "txt":
            return TextTable(lines)
        return (
            JsonTable(lines) if format == "jsonl" else DelimitedTable(lines, "," if format == "csv" else "\t")
        )
    except BaseException:
        lines.close()
        raise


def _format_of(path: str) -> str:
    if path == STDIN:
        raise InputError("The standard input has no suffix: say what it holds, for example --format txt.")
    name = PurePath(path).name.lower()
    suffix = PurePath(name.removesuffix(".gz")).suffix.removeprefix(".")
    if suffix not in _SUFFIXES:
        raise InputError(
            f"{path}: the suffix does not say what it holds. Known: .{', .'.join(FORMATS)} (texts also with "
            ".gz behind). Else say it, for example --format txt."
        )
    return _SUFFIXES[suffix]


class TextTable:
    """A line a row, in one column "text"; empty lines are empty texts, so that line n stays row n."""

    columns: Sequence[str] = ("text",)
    text_columns: Sequence[str] = ("text",)

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.name, self.done, self.close = lines.name, lines.done, lines.close

    @property
    def where(self) -> str:
        return self._lines.where

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        for line in self._lines:
            text = line.removesuffix("\n")
            yield (text.removesuffix("\r") if text != line else text,) * len(columns)


class JsonTable:
    """A JSON object a line; the first one says which columns there are. Blank lines are passed over."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.name, self.done, self.close = lines.name, lines.done, lines.close
        self._records = self._read()
        self._first = next(self._records, None)
        first = self._first or {}
        self.columns: Sequence[str] = tuple(first)
        self.text_columns: Sequence[str] = tuple(
            key for key, value in first.items() if isinstance(value, str)
        )

    @property
    def where(self) -> str:
        return self._lines.where

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        first = () if self._first is None else (self._first,)
        for record in chain(first, self._records):
            try:
                yield tuple([record[column] for column in columns])
            except KeyError as error:
                keys = ", ".join(record) or "none"
                raise InputError(f"{self.where}: no key {error.args[0]!r} here; its keys: {keys}.") from None

    def _read(self) -> Iterator[dict[str, Any]]:
        for line in self._lines:
            if line.isspace():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{self.where}, column {error.colno}: not JSON ({error.msg}).") from error
            except (ValueError, RecursionError) as error:
                raise InputError(f"{self.where}: not usable JSON ({error}).") from error
            if not isinstance(record, dict):
                raise InputError(
                    f"{self.where}: {kind_of(record)}, where each line must be an object such as "
                    '{"text": "..."}.'
                )
            yield record


class DelimitedTable:
    """Comma- or tab-separated values with a header, quoted as in RFC 4180; blank lines are passed over."""

    def __init__(self, lines: Lines, delimiter: str) -> None:
        self._lines = lines
        self._start = 1
        self.name, self.done, self.close = lines.name, lines.done, lines.close
        # The limit belongs to the whole process; it is raised here once, and never lowered for others.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
        self._reader = csv.reader(iter(lines), delimiter=delimiter, strict=True)
        self.columns: Sequence[str] = next(self._read(), ())
        self.text_columns = self.columns
        if len(self.columns) == 1 and any(other in self.columns[0] for other in ";\t,|"):
            raise InputError(
                f"{self.name}: the header has one column, {self.columns[0]!r}, which looks like several. "
                f"Separate them by {delimiter!r}, or say --format csv (commas) or --format tsv (tabs)."
            )

    @property
    def where(self) -> str:
        return f"{self.name}, line {self._start}"

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        if not self.columns:
            return
        for column in columns:
            if self.columns.count(column) > 1:
                raise InputError(
                    f"{self.name}: the header has the column {column!r} more than once; rename one."
                )
        places = [self.columns.index(column) for column in columns]
        width = len(self.columns)
        for row in self._read():
            if len(row) != width:
                raise InputError(f"{self.where}: {len(row)} fields, where the header has {width}.")
            yield tuple([row[place] for place in places])

    def _read(self) -> Iterator[list[str]]:
        while True:
            self._start = self._lines.number + 1
            try:
                row = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                last = self._lines.number
                span = f" to {last}" if last > self._start else ""
                raise InputError(
                    f"{self.where}{span}: not delimited text as RFC 4180 has it ({error}). "
                    "Look for a quotation mark that is not closed or not doubled."
                ) from error
            if row:
                yield row
