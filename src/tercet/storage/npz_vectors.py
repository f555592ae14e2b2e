"""Vectors as NumPy arrays in one .npz: no pickle, and constant memory while it is written."""

from __future__ import annotations

__all__ = ["NpzVectors", "read_npz"]

import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from numpy.typing import NDArray

from tercet.embeddings import Embeddings, MultiVectors, SparseVectors
from tercet.errors import InputError, OutputError
from tercet.storage.aside import Sink, writing
from tercet.storage.lines import open_file
from tercet.storage.provenance import KEY, describe, separate
from tercet.storage.rows import VectorRows

_COPY_BYTES = 2**20
_MAX_ID_CHARACTERS = 1024  # ids are stored as wide as the widest


class NpzVectors:
    """Collects each array in a nameless file beside the result, then lays them into the archive.

    The head of an array says how long it is, which nobody knows before the last text; so the archive is
    written at the end, and takes twice its size of disk while that lasts. Its members:

        id (texts,) · num_tokens, truncated, recomputed (texts,) · provenance, JSON
        dense (texts, dim)
        sparse_indptr (texts + 1,), sparse_indices (entries,), sparse_data (entries,), sparse_shape (2,): CSR
        multivector (tokens, dim), multivector_offsets (texts + 1,)
        text_utf8 (bytes,), text_offsets (texts + 1,): the texts, where they are kept
    """

    def __init__(self, sink: Sink, provenance: Mapping[str, Any]) -> None:
        self._sink = sink
        self._provenance = provenance
        self._columns: dict[str, _Column] = {}
        self._described = ""
        self._sparse_shape = (0, 0)
        self._widest = 1

    def write(self, rows: VectorRows) -> None:
        """Takes some rows."""
        arrays = rows.embeddings.numpy()
        self._described = self._described or describe(self._provenance, rows.embeddings)
        self._add_ids(rows)
        self._add("num_tokens", arrays.num_tokens)
        self._add("truncated", arrays.truncated)
        self._add("recomputed", arrays.recomputed)
        if arrays.dense is not None:
            self._add("dense", arrays.dense)
        if arrays.sparse is not None:
            self._add_offsets("sparse_indptr", arrays.sparse.offsets)
            self._add("sparse_indices", arrays.sparse.token_ids.astype(np.int32))
            self._add("sparse_data", arrays.sparse.weights)
            self._sparse_shape = (self._sparse_shape[0] + len(rows.ids), arrays.sparse.vocabulary)
        if arrays.multivector is not None:
            self._add("multivector", arrays.multivector.vectors)
            self._add_offsets("multivector_offsets", arrays.multivector.offsets)
        if rows.texts is not None:
            encoded = [text.encode() for text in rows.texts]
            self._add("text_utf8", np.frombuffer(b"".join(encoded), np.uint8))
            self._add_offsets("text_offsets", np.cumsum([0, *map(len, encoded)]))

    def finish(self) -> None:
        """Lays the collected arrays into the archive."""
        with writing(self._sink.path), zipfile.ZipFile(self._sink.file, "w", zipfile.ZIP_STORED) as archive:
            for name, column in self._columns.items():
                with _member(archive, name) as member:
                    if name == "id" and column.dtype.kind == "U":
                        self._lay_names(column, member)
                    else:
                        column.lay(member)
            with _member(archive, "provenance") as member:
                np.lib.format.write_array(member, np.array(self._described), allow_pickle=False)
            if "sparse_indptr" in self._columns:
                with _member(archive, "sparse_shape") as member:
                    shape = np.array(self._sparse_shape, np.int64)
                    np.lib.format.write_array(member, shape, allow_pickle=False)

    def close(self) -> None:
        """Lets go of the nameless files."""
        for column in self._columns.values():
            column.file.close()

    def _add(self, name: str, values: NDArray[Any]) -> None:
        with writing(self._sink.path):
            if name not in self._columns:
                self._columns[name] = _Column(self._sink.path.parent, values.dtype, values.shape[1:])
            self._columns[name].add(values)

    def _add_offsets(self, name: str, offsets: NDArray[Any]) -> None:
        """Where rows begin, counted on from those before; the first part brings the leading 0."""
        before = self._columns.get(name)
        start = 0 if before is None else before.last
        shifted = offsets.astype(np.int64) - offsets[0] + start
        self._add(name, shifted if before is None else shifted[1:])
        self._columns[name].last = int(shifted[-1])

    def _add_ids(self, rows: VectorRows) -> None:
        if not len(rows.ids) or not isinstance(rows.ids[0], str):
            self._add("id", np.array(rows.ids, np.int64))
            return
        names = [str(name) for name in rows.ids]
        self._widest = max(self._widest, *map(len, names))
        if self._widest > _MAX_ID_CHARACTERS:
            raise OutputError(
                f"{self._sink.path}: an id of {self._widest:,} characters; .npz stores every id as wide as "
                f"the widest, so at most {_MAX_ID_CHARACTERS:,}. Write .parquet or .jsonl, or take other ids."
            )
        # Line ends and separators may be part of an id, so each is preceded by its length.
        with writing(self._sink.path):
            if "id" not in self._columns:
                self._columns["id"] = _Column(self._sink.path.parent, np.dtype("U1"), ())
            column = self._columns["id"]
            column.rows += len(names)
            for name in names:
                encoded = name.encode()
                column.file.write(len(encoded).to_bytes(4, "little") + encoded)

    def _lay_names(self, column: _Column, member: BinaryIO) -> None:
        dtype = np.dtype(f"<U{self._widest}")
        _head(member, dtype, (column.rows,))
        column.file.seek(0)
        for _ in range(column.rows):
            name = column.file.read(int.from_bytes(column.file.read(4), "little")).decode()
            member.write(np.array([name], dtype).tobytes())


class _Column:
    """One array on its way: a file without a name, gone when it is closed, however the program ends."""

    def __init__(self, folder: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.dtype = dtype
        self.shape = shape
        self.rows = 0
        self.last = 0
        self.file: BinaryIO = cast(BinaryIO, tempfile.TemporaryFile(dir=folder, prefix=".tercet."))  # noqa: SIM115

    def add(self, values: NDArray[Any]) -> None:
        self.file.write(np.ascontiguousarray(values, self.dtype).data)
        self.rows += len(values)

    def lay(self, member: BinaryIO) -> None:
        _head(member, self.dtype, (self.rows, *self.shape))
        self.file.seek(0)
        while piece := self.file.read(_COPY_BYTES):
            member.write(piece)


def _member(archive: zipfile.ZipFile, name: str) -> BinaryIO:
    return cast(BinaryIO, archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True))


def _head(member: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, description)


def read_npz(path: str) -> tuple[dict[str, Any], Iterator[VectorRows]]:
    """Provenance, and all rows at once."""
    try:
        with open_file(path) as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not a whole .npz file ({error}).") from error
    if "provenance" not in arrays:
        raise InputError(f"{path}: .npz without Tercet's provenance ({KEY}), so not vectors that it wrote.")
    provenance, _ = separate(path, str(arrays["provenance"]))
    try:
        return provenance, iter([_rows(arrays)])
    except KeyError as error:
        raise InputError(f"{path}: the member {error} is missing.") from error


def _rows(arrays: dict[str, NDArray[Any]]) -> VectorRows:
    tensors = {
        name: torch.from_numpy(array) for name, array in arrays.items() if array.dtype.kind not in "US"
    }
    sparse = multivector = texts = None
    if "sparse_indptr" in tensors:
        sparse = SparseVectors(
            tensors["sparse_indices"].long(),
            tensors["sparse_data"],
            tensors["sparse_indptr"],
            int(arrays["sparse_shape"][1]),
        )
    if "multivector" in tensors:
        multivector = MultiVectors(tensors["multivector"], tensors["multivector_offsets"])
    if "text_utf8" in arrays:
        raw, offsets = arrays["text_utf8"].tobytes(), arrays["text_offsets"].tolist()
        texts = [raw[start:end].decode() for start, end in pairwise(offsets)]
    flags = (tensors[name] for name in ("num_tokens", "truncated", "recomputed"))
    return VectorRows(
        Embeddings(tensors.get("dense"), sparse, multivector, *flags), arrays["id"].tolist(), texts
    )
