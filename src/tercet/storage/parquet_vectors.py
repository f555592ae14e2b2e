"""Vectors in Parquet: dense and multi-vectors as fixed-size lists, sparse as indices and values."""

from __future__ import annotations

__all__ = ["ParquetVectors", "read_parquet"]

from collections.abc import Iterator, Mapping
from math import ceil
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tercet.embeddings import Embeddings, MultiVectors, SparseVectors
from tercet.errors import InputError
from tercet.storage.aside import Sink, writing
from tercet.storage.lines import open_file
from tercet.storage.provenance import KEY, describe, separate
from tercet.storage.rows import VectorRows

# Each byte of a float in a stream of its own: the bytes of signs and exponents repeat, and zstd finds that.
_VECTOR_LEAVES = {
    "dense": "dense.list.element",
    "sparse": "sparse.values.list.element",
    "multivector": "multivector.list.element.list.element",
}


class ParquetVectors:
    """Collects record batches until they fill a row group, then writes it."""

    def __init__(self, sink: Sink, provenance: Mapping[str, Any], row_group_bytes: int) -> None:
        self._sink = sink
        self._provenance = provenance
        self._row_group_bytes = row_group_bytes
        self._batches: list[pa.RecordBatch] = []
        self._bytes = 0
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: VectorRows) -> None:
        """Takes rows, in pieces of at most a row group."""
        pieces = max(1, ceil(_nbytes(rows) / self._row_group_bytes))
        step = max(1, ceil(len(rows.embeddings) / pieces))
        for start in range(0, max(1, len(rows.embeddings)), step):
            chosen = slice(start, start + step)
            texts = None if rows.texts is None else rows.texts[chosen]
            self._add(VectorRows(rows.embeddings[chosen], rows.ids[chosen], texts))

    def finish(self) -> None:
        """Writes the last row group and the footer."""
        assert self._writer is not None, "at least one part must be written"
        self._flush()
        with writing(self._sink.path):
            self._writer.close()

    def close(self) -> None:
        """Forgets the writer, so that it does not write a footer when it is collected."""
        if self._writer is not None:
            self._writer.is_open = False

    def _add(self, rows: VectorRows) -> None:
        size = _nbytes(rows)
        if self._bytes + size > self._row_group_bytes:
            self._flush()
        self._batches.append(_record_batch(rows))
        self._bytes += size
        if self._writer is None:
            self._writer = self._open(rows.embeddings)

    def _flush(self) -> None:
        assert self._writer is not None or not self._batches
        if self._writer is not None and any(len(batch) > 0 for batch in self._batches):
            table = pa.Table.from_batches(self._batches)
            with writing(self._sink.path):
                self._writer.write_table(table, row_group_size=len(table))
        self._batches, self._bytes = [], 0

    def _open(self, embeddings: Embeddings) -> pq.ParquetWriter:
        metadata = {KEY: describe(self._provenance, embeddings)}
        split = [_VECTOR_LEAVES[name] for name in embeddings.outputs]
        with writing(self._sink.path):
            return pq.ParquetWriter(
                self._sink.file,
                self._batches[0].schema.with_metadata(metadata),
                compression="zstd",
                use_dictionary=False,
                column_encoding=dict.fromkeys(split, "BYTE_STREAM_SPLIT"),
                write_statistics=["id", "num_tokens", "truncated", "recomputed"],
            )


def read_parquet(path: str) -> tuple[dict[str, Any], Iterator[VectorRows]]:
    """Provenance, and the rows of one row group after another."""
    stream = open_file(path)
    try:
        file = pq.ParquetFile(stream, pre_buffer=False)
        stored = (file.schema_arrow.metadata or {}).get(KEY.encode())
        if stored is None:
            raise InputError(f"{path}: Parquet without Tercet's provenance, so not vectors that it wrote.")
        provenance, layout = separate(path, stored)
    except (pa.ArrowException, OSError) as error:
        stream.close()
        raise InputError(f"{path}: not a whole Parquet file ({error}).") from error
    except BaseException:
        stream.close()
        raise

    def parts() -> Iterator[VectorRows]:
        with stream:
            try:
                # A file of no texts has no row group, yet says which outputs there are.
                for group in range(max(1, file.num_row_groups)):
                    table = file.read_row_group(group) if file.num_row_groups else file.read()
                    yield _rows(table.combine_chunks(), layout)
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{path}: damaged ({error}).") from error

    return provenance, parts()


def _record_batch(rows: VectorRows) -> pa.RecordBatch:
    """The columns of a file; vectors are not copied."""
    arrays = rows.embeddings.numpy()
    named = len(rows.ids) > 0 and isinstance(rows.ids[0], str)
    columns = {"id": pa.array(list(rows.ids), pa.string() if named else pa.int64())}
    if rows.texts is not None:
        columns["text"] = pa.array(list(rows.texts), pa.large_string())
    columns["num_tokens"] = pa.array(arrays.num_tokens.astype(np.int32))
    columns["truncated"] = pa.array(arrays.truncated)
    columns["recomputed"] = pa.array(arrays.recomputed)
    if arrays.dense is not None:
        columns["dense"] = _fixed(arrays.dense)
    if arrays.sparse is not None:
        offsets = pa.array(arrays.sparse.offsets.astype(np.int32))
        indices = pa.ListArray.from_arrays(offsets, pa.array(arrays.sparse.token_ids.astype(np.uint32)))
        values = pa.ListArray.from_arrays(offsets, pa.array(arrays.sparse.weights))
        columns["sparse"] = pa.StructArray.from_arrays([indices, values], ["indices", "values"])
    if arrays.multivector is not None:
        offsets = pa.array(arrays.multivector.offsets.astype(np.int32))
        columns["multivector"] = pa.ListArray.from_arrays(offsets, _fixed(arrays.multivector.vectors))
    return pa.RecordBatch.from_pydict(columns)


def _fixed(vectors: np.ndarray[Any, Any]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(vectors).reshape(-1)), vectors.shape[1]
    )


def _rows(table: pa.Table, layout: Mapping[str, Any]) -> VectorRows:
    dtype = np.dtype(layout["dtype"])

    def numbers(array: pa.Array, dtype: np.dtype[Any]) -> torch.Tensor:
        return torch.from_numpy(np.array(array, dtype=dtype))

    def column(name: str) -> pa.Array:
        chunked = table.column(name)
        return chunked.chunk(0) if chunked.num_chunks else pa.array([], chunked.type)

    def offsets(lists: pa.ListArray) -> torch.Tensor:
        return numbers(lists.offsets, np.dtype(np.int64)) - (lists.offsets[0].as_py() if len(lists) else 0)

    dense = sparse = multivector = None
    if "dense" in table.column_names:
        lists = column("dense")
        dense = numbers(lists.flatten(), dtype).reshape(len(lists), lists.type.list_size)
    if "sparse" in table.column_names:
        indices, values = column("sparse").flatten()
        sparse = SparseVectors(
            numbers(indices.flatten(), np.dtype(np.int64)),
            numbers(values.flatten(), dtype),
            offsets(indices),
            layout["vocabulary"],
        )
    if "multivector" in table.column_names:
        outer = column("multivector")
        inner = outer.flatten()
        vectors = numbers(inner.flatten(), dtype).reshape(len(inner), inner.type.list_size)
        multivector = MultiVectors(vectors, offsets(outer))
    flags = [numbers(column(name), np.dtype(bool)) for name in ("truncated", "recomputed")]
    embeddings = Embeddings(
        dense, sparse, multivector, numbers(column("num_tokens"), np.dtype(np.int64)), *flags
    )
    texts = column("text").to_pylist() if "text" in table.column_names else None
    return VectorRows(embeddings, column("id").to_pylist(), texts)


def _nbytes(rows: VectorRows) -> int:
    """Bytes that the rows hold, vectors and texts; ids and flags are counted as 64 bytes a row."""
    embeddings = rows.embeddings
    size = 64 * len(embeddings)
    size += 0 if embeddings.dense is None else embeddings.dense.nbytes
    if embeddings.sparse is not None:
        size += embeddings.sparse.token_ids.nbytes + embeddings.sparse.weights.nbytes
    size += 0 if embeddings.multivector is None else embeddings.multivector.vectors.nbytes
    return size + (0 if rows.texts is None else sum(map(len, rows.texts)))
