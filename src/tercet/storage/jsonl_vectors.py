"""Vectors as JSON lines: one object a text, and the provenance in the first of them."""

from __future__ import annotations

__all__ = ["JsonlVectors", "read_jsonl"]

import json
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tercet.embeddings import Embeddings, MultiVectors, SparseVectors
from tercet.errors import InputError
from tercet.storage.aside import Sink, writing
from tercet.storage.lines import Lines
from tercet.storage.provenance import describe, separate
from tercet.storage.rows import VectorRows

_READ_ROWS = 256


class JsonlVectors:
    """Writes each text's line at once. Every line is a row; a file of no text is empty.

    A number is written with as few digits as bring back the same number of its dtype.
    """

    def __init__(self, sink: Sink, provenance: Mapping[str, Any]) -> None:
        self._sink = sink
        self._provenance = provenance
        self._begun = False

    def write(self, rows: VectorRows) -> None:
        """Takes some rows."""
        described = describe(self._provenance, rows.embeddings)
        with writing(self._sink.path):
            for line in _lines(rows):
                first = "" if self._begun else f'"provenance": {described}, '
                self._sink.file.write(("{" + first + line + "}\n").encode())
                self._begun = True

    def finish(self) -> None:
        """Nothing is left to write."""

    def close(self) -> None:
        """Nothing is held."""


def _lines(rows: VectorRows) -> Iterator[str]:
    """What stands between the braces, text by text."""
    arrays = rows.embeddings.numpy()
    for row, name in enumerate(rows.ids):
        parts = [f'"id": {json.dumps(name)}']
        if rows.texts is not None:
            parts.append(f'"text": {json.dumps(rows.texts[row], ensure_ascii=False)}')
        parts.append(f'"num_tokens": {arrays.num_tokens[row]}')
        parts.append(f'"truncated": {json.dumps(bool(arrays.truncated[row]))}')
        parts.append(f'"recomputed": {json.dumps(bool(arrays.recomputed[row]))}')
        if arrays.dense is not None:
            parts.append(f'"dense": {_numbers(arrays.dense[row])}')
        if arrays.sparse is not None:
            start, end = arrays.sparse.offsets[row : row + 2]
            indices, values = arrays.sparse.token_ids[start:end], arrays.sparse.weights[start:end]
            parts.append(f'"sparse": {{"indices": {indices.tolist()}, "values": {_numbers(values)}}}')
        if arrays.multivector is not None:
            start, end = arrays.multivector.offsets[row : row + 2]
            vectors = ", ".join(map(_numbers, arrays.multivector.vectors[start:end]))
            parts.append(f'"multivector": [{vectors}]')
        yield ", ".join(parts)


def _numbers(values: NDArray[Any]) -> str:
    """A JSON list; NumPy's text of a number is the shortest that reads back as the same."""
    return f"[{', '.join(values.astype(str).tolist())}]"


def read_jsonl(path: str) -> tuple[dict[str, Any], Iterator[VectorRows]]:
    """Provenance, and the rows, a few hundred at a time."""
    lines = Lines(path, max_line_bytes=2**30)
    records = _records(lines)
    try:
        first = next(records, None)
        if first is None or "provenance" not in first:
            raise InputError(f"{path}: no provenance in its first line, so not vectors that Tercet wrote.")
        provenance, file = separate(path, json.dumps(first["provenance"]))
    except BaseException:
        lines.close()
        raise

    def parts() -> Iterator[VectorRows]:
        try:
            rest = chain([first], records)
            while some := list(islice(rest, _READ_ROWS)):
                try:
                    yield _rows(some, file)
                except (KeyError, TypeError, ValueError) as error:
                    raise InputError(
                        f"{lines.where}, or just before: not a row of vectors ({error})."
                    ) from error
        finally:
            lines.close()

    return provenance, parts()


def _records(lines: Lines) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError as error:
            raise InputError(f"{lines.where}: not JSON ({error}).") from error


def _rows(records: list[dict[str, Any]], file: Mapping[str, Any]) -> VectorRows:
    dtype = getattr(torch, file["dtype"])
    dense = sparse = multivector = None
    if "dense" in file["outputs"]:
        dense = torch.tensor([record["dense"] for record in records], dtype=dtype)
    if "sparse" in file["outputs"]:
        found = [record["sparse"] for record in records]
        sparse = SparseVectors(
            torch.tensor([token for one in found for token in one["indices"]], dtype=torch.int64),
            torch.tensor([weight for one in found for weight in one["values"]], dtype=dtype),
            _offsets([len(one["indices"]) for one in found]),
            file["vocabulary"],
        )
    if "multivector" in file["outputs"]:
        vectors = [record["multivector"] for record in records]
        rows = torch.tensor([row for one in vectors for row in one], dtype=dtype)
        multivector = MultiVectors(rows, _offsets([len(one) for one in vectors]))
    counts = torch.tensor([record["num_tokens"] for record in records])
    flags = [torch.tensor([record[name] for record in records]) for name in ("truncated", "recomputed")]
    texts = [record["text"] for record in records] if "text" in records[0] else None
    ids = [record["id"] for record in records]
    return VectorRows(Embeddings(dense, sparse, multivector, counts, *flags), ids, texts)


def _offsets(lengths: list[int]) -> torch.Tensor:
    return torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int64))
