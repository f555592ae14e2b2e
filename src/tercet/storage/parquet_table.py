"""A Parquet file as a table of texts, by record batches."""

from __future__ import annotations

__all__ = ["ParquetTable"]

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tercet.errors import InputError
from tercet.storage.lines import STDIN, open_file

_BATCH_ROWS = 256
_BUFFER_BYTES = 2**20  # pages are read as they are needed; without it, a whole column of a row group


class ParquetTable:
    """The top-level columns of a Parquet file."""

    def __init__(self, path: str) -> None:
        """Reads the file's footer.

        Raises:
            InputError: it is not there, or not Parquet.
        """
        if path == STDIN:
            raise InputError(
                "Parquet has its index at the end and cannot come from a pipe: save it to a file first."
            )
        self.name = path
        self._stream = open_file(path)
        self._row = 0
        try:
            self._file = pq.ParquetFile(self._stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            self._stream.close()
            raise InputError(f"{path}: not a whole Parquet file ({error}).") from error
        schema = self._file.schema_arrow
        self.columns: Sequence[str] = tuple(schema.names)
        self.text_columns: Sequence[str] = tuple(field.name for field in schema if _is_text(field.type))

    @property
    def where(self) -> str:  # noqa: D102
        return f"{self.name}, row {max(0, self._row - 1)} (the first is 0)"

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:  # noqa: D102
        try:
            for batch in self._file.iter_batches(_BATCH_ROWS, columns=list(dict.fromkeys(columns))):
                values = [batch.column(column).to_pylist() for column in columns]
                for row in zip(*values, strict=True):
                    self._row += 1
                    yield row
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.name}: damaged after row {self._row} ({error}).") from error

    def done(self) -> float | None:  # noqa: D102
        return self._row / max(1, int(self._file.metadata.num_rows))

    def close(self) -> None:  # noqa: D102
        self._file.close()
        self._stream.close()


def _is_text(type: pa.DataType) -> bool:
    if pa.types.is_dictionary(type):
        type = type.value_type
    return bool(type in (pa.string(), pa.large_string(), pa.string_view()))
