"""Vectors with their provenance: written part by part in constant memory, and read back."""

from __future__ import annotations

__all__ = [
    "OUTPUT_FORMATS",
    "VectorRows",
    "VectorWriter",
    "check_output",
    "open_writer",
    "read_vectors",
    "stream_vectors",
]

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tercet.errors import InputError, OutputError
from tercet.storage.aside import Aside, Sink, Stdout
from tercet.storage.rows import Ids, VectorFormat, VectorRows

if TYPE_CHECKING:
    from tercet.embeddings import Embeddings

OUTPUT_FORMATS = ("parquet", "npz", "jsonl")


class VectorWriter:
    """A file of vectors that is being written; a context manager.

    Left without an error, the file is complete and takes its place; left with one (Ctrl-C included), nothing
    of it stays, and an older file is untouched. At least one part must be written, be it of no text, since
    that says which outputs there are.
    """

    def __init__(self, sink: Sink, format: VectorFormat, *, keep_text: bool) -> None:
        self.num_texts = 0
        self._sink = sink
        self._format = format
        self._keep_text = keep_text
        self._no_text: Embeddings | None = None

    def write(
        self, embeddings: Embeddings, *, ids: Ids | None = None, texts: Sequence[str] | None = None
    ) -> None:
        """Adds some texts' vectors.

        Args:
            embeddings: the vectors; the same outputs, widths and dtype in every call.
            ids: one a text; None numbers on.
            texts: one a text, kept if the writer was opened with `keep_text`.

        Raises:
            OutputError: they could not be written.
        """
        if ids is None:
            ids = range(self.num_texts, self.num_texts + len(embeddings))
        for name, values in (("ids", ids), ("texts", texts)):
            if values is not None and len(values) != len(embeddings):
                raise InputError(f"{len(values)} {name} for {len(embeddings)} embeddings; give one for each.")
        if self._keep_text and texts is None:
            raise InputError("This file keeps the texts: pass texts=, or open it without keep_text.")
        if len(embeddings):
            self._format.write(VectorRows(embeddings, ids, texts if self._keep_text else None))
            self.num_texts += len(embeddings)
        else:
            self._no_text = embeddings

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                if not self.num_texts:
                    self._write_empty()
                self._format.finish()
                self._sink.commit()
        finally:
            self._format.close()
            self._sink.discard()

    def _write_empty(self) -> None:
        if self._no_text is None:
            raise InputError(
                f"{self._sink.path}: nothing was written. Write the embeddings of no text for an empty file."
            )
        self._format.write(VectorRows(self._no_text, [], [] if self._keep_text else None))


def check_output(path: str, *, input: str | None = None, overwrite: bool = False) -> str:
    """The format of an output that can be written, found out before any work is done.

    Raises:
        OutputError: a folder, in a folder that is not there or may not be written, the input itself, there
            already (and not to be overwritten), or of no known format.
    """
    if path == "-":
        return "jsonl"
    where = Path(path)
    suffix = where.suffix.lower().removeprefix(".")
    if where.is_dir():
        raise OutputError(
            f"{path}: is a folder. Give the name of a file in it, such as {where / 'vectors.parquet'}."
        )
    if suffix not in OUTPUT_FORMATS:
        known = ", ".join(f".{name}" for name in OUTPUT_FORMATS)
        raise OutputError(
            f"{path}: the suffix does not say the format. Use one of {known}, or '-' for JSON lines."
        )
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise OutputError(f"{path}: the folder {folder} is not there. Make it first: mkdir -p '{folder}'")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            f"{path}: the folder {folder} may not be written to. Change its permissions, or write elsewhere."
        )
    if where.exists():
        if input is not None and Path(input).exists() and where.samefile(input):
            raise OutputError(f"{path}: is the input itself. Give the output another name.")
        if not where.is_file():
            raise OutputError(f"{path}: is not a regular file and cannot be replaced. Give another name.")
        if not overwrite:
            raise OutputError(
                f"{path}: is there already. Give another name, or pass --overwrite (overwrite=True)."
            )
    return suffix


def open_writer(
    path: str,
    *,
    provenance: Mapping[str, Any],
    keep_text: bool = False,
    overwrite: bool = False,
    row_group_bytes: int = 64 * 2**20,
) -> VectorWriter:
    """A writer of .parquet, .npz or .jsonl; "-" sends JSON lines to the standard output.

    Args:
        path: the suffix says the format. The file is written aside in the same folder and renamed at the end.
        provenance: how the vectors were made, as JSON values; stored in the file.
        keep_text: store the texts beside their vectors.
        overwrite: replace a file that is there.
        row_group_bytes: Parquet only: bytes of vectors that are collected before they are written together.

    Raises:
        OutputError: as `check_output` has it.
    """
    kind = check_output(path, overwrite=overwrite)
    sink: Sink = Stdout() if path == "-" else Aside(Path(path))
    try:
        format: VectorFormat
        if kind == "parquet":
            from tercet.storage.parquet_vectors import ParquetVectors

            format = ParquetVectors(sink, provenance, row_group_bytes)
        elif kind == "npz":
            from tercet.storage.npz_vectors import NpzVectors

            format = NpzVectors(sink, provenance)
        else:
            from tercet.storage.jsonl_vectors import JsonlVectors

            format = JsonlVectors(sink, provenance)
    except BaseException:
        sink.discard()
        raise
    return VectorWriter(sink, format, keep_text=keep_text)


def stream_vectors(path: str) -> tuple[dict[str, Any], Iterator[VectorRows]]:
    """The provenance of a file that Tercet wrote, and its rows, part by part (of .npz, all at once).

    Raises:
        InputError: not a file of vectors that Tercet wrote, or a damaged one.
    """
    suffix = Path(path).suffix.lower()
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file.")
    if suffix == ".parquet":
        from tercet.storage.parquet_vectors import read_parquet

        return read_parquet(path)
    if suffix == ".npz":
        from tercet.storage.npz_vectors import read_npz

        return read_npz(path)
    if suffix == ".jsonl":
        from tercet.storage.jsonl_vectors import read_jsonl

        return read_jsonl(path)
    raise InputError(
        f"{path}: not a file of vectors. Known: {', '.join('.' + name for name in OUTPUT_FORMATS)}."
    )


def read_vectors(path: str) -> tuple[Embeddings, list[int] | list[str], dict[str, Any]]:
    """All vectors of a file that Tercet wrote, their ids, their provenance; errors as in `stream_vectors`."""
    from tercet.embeddings import Embeddings

    provenance, parts = stream_vectors(path)
    rows = list(parts)
    ids: list[Any] = [id for part in rows for id in part.ids]
    return Embeddings.concat([part.embeddings for part in rows]), ids, provenance
