"""Rows as vector stores take them, with their limits checked before anything is sent."""

from __future__ import annotations

__all__ = ["to_milvus", "to_pgvector", "to_qdrant"]

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tercet.embeddings.arrays import to_numpy
from tercet.embeddings.multivector import MultiVectors
from tercet.embeddings.sparse import SparseVectors
from tercet.errors import InputError

# Qdrant: MAX_MULTIVECTOR_FLATTENED_LEN in its source (a multivector must be smaller), and its FAQ.
QDRANT_MULTIVECTOR_NUMBERS = 1024 * 1024
QDRANT_DIM = 65_535
# Milvus documentation, "Milvus Limits".
MILVUS_DIM = 32_768
# pgvector, src/vector.h and src/sparsevec.h: VECTOR_MAX_DIM, SPARSEVEC_MAX_NNZ.
PGVECTOR_DIM = 16_000
PGVECTOR_SPARSE_ENTRIES = 16_000


def to_qdrant(
    dense: Tensor | None, sparse: SparseVectors | None, multivector: MultiVectors | None
) -> list[dict[str, Any]]:
    """Named vectors of each text."""
    _check_dim("Qdrant", QDRANT_DIM, dense, multivector)
    if multivector is not None:
        _check_rows("Qdrant", multivector)
        limit = (QDRANT_MULTIVECTOR_NUMBERS - 1) // max(multivector.dim, 1)
        longest = _longest(multivector)
        if longest is not None and longest[1] > limit:
            text, rows = longest
            raise InputError(
                f"Text {text} has {rows} vectors of {multivector.dim}; Qdrant takes fewer than "
                f"{QDRANT_MULTIVECTOR_NUMBERS:,} numbers a multivector, so at most {limit} vectors. "
                f"Embed with max_length={limit + 1}, or split the text."
            )

    def entries(ids: NDArray[Any], weights: NDArray[Any]) -> dict[str, list[Any]]:
        return {"indices": ids.tolist(), "values": weights.tolist()}

    return _rows(dense, sparse, multivector, vector=_floats, entries=entries, vectors=_floats)


def to_milvus(
    dense: Tensor | None, sparse: SparseVectors | None, multivector: MultiVectors | None
) -> list[dict[str, Any]]:
    """The vector fields of each text's row."""
    _check_dim("Milvus", MILVUS_DIM, dense, multivector)
    if multivector is not None:
        _check_rows("Milvus", multivector)

    def entries(ids: NDArray[Any], weights: NDArray[Any]) -> dict[int, float]:
        return dict(zip(ids.tolist(), weights.tolist(), strict=True))

    def vectors(rows: NDArray[Any]) -> list[dict[str, list[float]]]:
        return [{"vector": row} for row in rows.tolist()]

    return _rows(dense, sparse, multivector, vector=_floats, entries=entries, vectors=vectors)


def to_pgvector(
    dense: Tensor | None, sparse: SparseVectors | None, multivector: MultiVectors | None
) -> list[dict[str, Any]]:
    """The vectors of each text in PostgreSQL's text form."""
    _check_dim("pgvector", PGVECTOR_DIM, dense, multivector)
    if sparse is not None:
        longest = _longest(sparse)
        if longest is not None and longest[1] > PGVECTOR_SPARSE_ENTRIES:
            text, found = longest
            raise InputError(
                f"Text {text} has {found:,} lexical weights; pgvector's sparsevec takes "
                f"{PGVECTOR_SPARSE_ENTRIES:,}. Keep the largest: .sparse.top({PGVECTOR_SPARSE_ENTRIES})."
            )

    def vector(row: NDArray[Any]) -> str:
        return f"[{','.join(_numbers(row))}]"

    def entries(ids: NDArray[Any], weights: NDArray[Any]) -> str:
        assert sparse is not None
        pairs = ",".join(f"{i + 1}:{w}" for i, w in zip(ids.tolist(), _numbers(weights), strict=True))
        return f"{{{pairs}}}/{sparse.vocabulary}"

    def vectors(rows: NDArray[Any]) -> list[str]:
        return [vector(row) for row in rows]

    return _rows(dense, sparse, multivector, vector=vector, entries=entries, vectors=vectors)


def _rows(
    dense: Tensor | None,
    sparse: SparseVectors | None,
    multivector: MultiVectors | None,
    *,
    vector: Callable[[NDArray[Any]], Any],
    entries: Callable[[NDArray[Any], NDArray[Any]], Any],
    vectors: Callable[[NDArray[Any]], Any],
) -> list[dict[str, Any]]:
    """One dictionary a text, each output written by its own function."""
    texts = next((len(part) for part in (dense, sparse, multivector) if part is not None), 0)
    rows: list[dict[str, Any]] = [{} for _ in range(texts)]
    if dense is not None:
        for row, values in zip(rows, _float32(dense), strict=True):
            row["dense"] = vector(values)
    if sparse is not None:
        ids, weights, offsets = to_numpy(sparse.token_ids), _float32(sparse.weights), sparse.offsets.tolist()
        for row, start, end in zip(rows, offsets[:-1], offsets[1:], strict=True):
            row["sparse"] = entries(ids[start:end], weights[start:end])
    if multivector is not None:
        values, offsets = _float32(multivector.vectors), multivector.offsets.tolist()
        for row, start, end in zip(rows, offsets[:-1], offsets[1:], strict=True):
            row["multivector"] = vectors(values[start:end])
    return rows


def _float32(tensor: Tensor) -> NDArray[Any]:
    """Values in float32, which all three stores keep."""
    return to_numpy(tensor).astype(np.float32, copy=False)


def _floats(values: NDArray[Any]) -> Any:
    """Python floats, nested as the array is."""
    return values.tolist()


def _numbers(values: NDArray[Any]) -> list[str]:
    """The shortest decimals that read back as the same float32."""
    found: list[str] = values.astype(np.str_).tolist()
    return found


def _check_dim(store: str, limit: int, dense: Tensor | None, multivector: MultiVectors | None) -> None:
    """An InputError if a vector is wider than the store takes."""
    widths = {
        "dense": 0 if dense is None else dense.shape[1],
        "multi": 0 if multivector is None else multivector.dim,
    }
    for kind, dim in widths.items():
        if dim > limit:
            raise InputError(
                f"The {kind} vectors have {dim:,} dimensions, {store} takes {limit:,}. "
                f"Embed with dimensions={limit}."
            )


def _check_rows(store: str, multivector: MultiVectors) -> None:
    """An InputError if a text has no vector."""
    empty = (multivector.lengths == 0).nonzero()
    if len(empty):
        raise InputError(
            f"Text {int(empty[0, 0])} has no vectors, and {store} takes no empty multivector; leave it out."
        )


def _longest(part: SparseVectors | MultiVectors) -> tuple[int, int] | None:
    """The first of the texts with most entries, and how many; None of no text."""
    if len(part) == 0:
        return None
    text = int(part.lengths.argmax())
    return text, int(part.lengths[text])
