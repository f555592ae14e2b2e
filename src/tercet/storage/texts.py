"""Texts and their ids, from whatever file they are in."""

from __future__ import annotations

__all__ = ["Row", "TextReader", "read_pairs", "read_texts"]

from collections.abc import Iterator, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, NamedTuple, Self

from tercet.errors import InputError, kind_of, nearest
from tercet.storage.tables import Table, open_table


class Row(NamedTuple):
    """One text; its id is its place from 0 where no column of ids was chosen."""

    id: int | str
    text: str


class TextReader:
    """The texts of a file, in order, once; a context manager that closes the file.

    Attributes:
        column: the column that is read.
    """

    def __init__(self, table: Table, column: str, id_column: str | None, limit: int | None) -> None:
        self.column = column
        self._table = table
        self._id_column = id_column
        self._limit = limit
        self._id_type: type | None = None

    def __iter__(self) -> Iterator[Row]:
        columns = [self.column] if self._id_column is None else [self.column, self._id_column]
        rows = self._table.rows(columns)
        for place, values in enumerate(islice(rows, self._limit)):
            text = _text(values[0], self.column, self._table)
            yield Row(place if self._id_column is None else self._id(values[1]), text)

    def done(self) -> float | None:
        """The part of the file that was read, from 0 to 1; None where nobody can tell."""
        return self._table.done()

    def close(self) -> None:
        """Closes the file."""
        self._table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _id(self, value: Any) -> int | str:
        if type(value) not in (int, str) or (isinstance(value, int) and not -(2**63) <= value < 2**63):
            raise InputError(
                f"{self._table.where}: the id in {self._id_column!r} is {_kind(value)}; it must be a string "
                "or a 64-bit integer. Choose another --id-column, or leave it out to number the rows."
            )
        if self._id_type not in (None, type(value)):
            assert self._id_type is not None
            raise InputError(
                f"{self._table.where}: the id in {self._id_column!r} is {kind_of(value)}, those "
                f"before it were {self._id_type.__name__}. Make them of one kind."
            )
        self._id_type = type(value)
        assert isinstance(value, int | str)
        return value


def read_texts(
    path: str,
    *,
    format: str | None = None,
    column: str | None = None,
    id_column: str | None = None,
    limit: int | None = None,
) -> TextReader:
    """The texts of a file, or of the standard input ("-").

    Args:
        path: .txt (a line a text), .jsonl, .csv, .tsv, each also with .gz behind, or .parquet.
        format: "txt", "jsonl", "csv", "tsv" or "parquet"; None goes by the suffix.
        column: None takes "text", else the only column of strings.
        id_column: strings or integers that name the texts; None numbers them from 0.
        limit: at most so many texts.

    Raises:
        InputError: here for a file or column that is not there; while reading for a row that cannot be used,
            with its line.
    """
    table = open_table(path, format=format)
    try:
        if id_column is not None:
            _check(id_column, table)
        others = [name for name in table.text_columns if name != id_column]
        return TextReader(table, _choose(column, others, table), id_column, limit)
    except BaseException:
        table.close()
        raise


def read_pairs(
    path: str, *, format: str | None = None, columns: tuple[str, str]
) -> Iterator[tuple[str, str]]:
    """Pairs of texts, such as query and document, from two columns of a file; errors as in `read_texts`."""
    table = open_table(path, format=format)
    try:
        for column in columns:
            _check(column, table)
    except BaseException:
        table.close()
        raise

    def pairs() -> Iterator[tuple[str, str]]:
        try:
            for values in table.rows(columns):
                first, second = (
                    _text(value, name, table) for value, name in zip(values, columns, strict=True)
                )
                yield first, second
        finally:
            table.close()

    return pairs()


def _choose(column: str | None, text_columns: Sequence[str], table: Table) -> str:
    if not table.columns:  # an empty file: no rows, so any name will do
        return column or "text"
    if column is not None:
        _check(column, table)
        if column not in table.text_columns:
            found = ", ".join(table.text_columns) or "none"
            raise InputError(
                f"{table.name}: the column {column!r} does not hold strings. Those that do: {found}."
            )
        return column
    if "text" in text_columns:
        return "text"
    if len(text_columns) == 1:
        return text_columns[0]
    found = ", ".join(table.columns)
    raise InputError(
        f"{table.name}: no column 'text', and {len(text_columns) or 'none'} of the others hold strings, so "
        f"there is nothing to go by. Its columns: {found}. Choose one with --column."
    )


def _check(column: str, table: Table) -> None:
    if table.columns and column not in table.columns:
        raise InputError(f"{table.name}: no column {column!r}. {nearest(column, table.columns)}")


def _text(value: Any, column: str, table: Table) -> str:
    if not isinstance(value, str):
        raise InputError(
            f"{table.where}: {column!r} is {_kind(value)}, not a string. "
            "Leave such rows out, or choose another column."
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{table.where}: {column!r} holds half of a surrogate pair ({value[error.start]!a} at character "
            f"{error.start}), which is no character. Remove it."
        ) from error
    return value


def _kind(value: Any) -> str:
    return "null" if value is None else f"{kind_of(value)} ({str(value)[:40]})"
