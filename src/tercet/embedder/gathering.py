"""The results of a stream as one, without holding them twice."""

from __future__ import annotations

__all__ = ["gathered"]

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tercet.embeddings import Embeddings, MultiVectors, SparseVectors


def gathered(parts: Iterator[Embeddings], texts: int | None = None) -> Embeddings | None:
    """What `Embeddings.concat` of the parts gives, each let go of when it was copied; None of no parts.

    Args:
        parts: of one model and one call, so with the same outputs, widths and dtypes; one part comes out as
            it is.
        texts: number of all texts, where it is known before.
    """
    first = next(parts, None)
    if first is None:
        return None
    following = next(parts, None)
    if following is None:
        return first
    kept = {name: _Rows(rows, texts if name in _ONE_A_TEXT else None) for name, rows in _rows(first).items()}
    vocabulary = None if first.sparse is None else first.sparse.vocabulary
    del first
    while following is not None:
        _append(kept, following)
        following = None  # let go of before the next one is made
        following = next(parts, None)
    found = {name: rows.whole() for name, rows in kept.items()}
    return Embeddings(
        dense=found.get("dense"),
        sparse=None
        if vocabulary is None
        else SparseVectors(
            found["token_ids"], found["weights"], _offsets(found["sparse_lengths"]), vocabulary
        ),
        multivector=None
        if "vectors" not in found
        else MultiVectors(found["vectors"], _offsets(found["multivector_lengths"])),
        num_tokens=found["num_tokens"],
        truncated=found["truncated"],
        recomputed=found["recomputed"],
    )


_ONE_A_TEXT = ("dense", "sparse_lengths", "multivector_lengths", "num_tokens", "truncated", "recomputed")


def _rows(part: Embeddings) -> dict[str, Tensor]:
    """Everything of a part that is laid end to end."""
    found = {"num_tokens": part.num_tokens, "truncated": part.truncated, "recomputed": part.recomputed}
    if part.dense is not None:
        found["dense"] = part.dense
    if part.sparse is not None:
        found["token_ids"], found["weights"] = part.sparse.token_ids, part.sparse.weights
        found["sparse_lengths"] = part.sparse.lengths
    if part.multivector is not None:
        found["vectors"], found["multivector_lengths"] = part.multivector.vectors, part.multivector.lengths
    return found


def _append(kept: dict[str, _Rows], part: Embeddings) -> None:
    for name, rows in _rows(part).items():
        kept[name].append(rows)


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


class _Rows:
    """Rows that come in parts, in one block of memory.

    The block is NumPy's, which grows by `realloc`: for a large block the system moves its pages to another
    address, where torch would copy it and hold it twice meanwhile.
    """

    def __init__(self, first: Tensor, expected: int | None) -> None:
        self._dtype = first.dtype
        self._width = first.shape[1:].numel() * first.element_size()
        self._shape = first.shape[1:]
        # Bytes, since NumPy lacks bfloat16. Of what is expected no page is taken before it is written.
        self._bytes = np.empty(max(expected or 0, len(first)) * self._width, dtype=np.uint8)
        self._used = 0
        self.append(first)

    def append(self, rows: Tensor) -> None:
        """Copy further rows behind those that are there."""
        end = self._used + rows.numel() * rows.element_size()
        if end > len(self._bytes):
            # An eighth more than needed: a corpus of many small parts is moved a few times only.
            self._bytes.resize(end + end // 8, refcheck=False)
        self._bytes[self._used : end] = rows.contiguous().view(-1).view(torch.uint8).numpy()
        self._used = end

    def whole(self) -> Tensor:
        """All rows, in memory of their own size."""
        self._bytes.resize(self._used, refcheck=False)
        return torch.from_numpy(self._bytes).view(self._dtype).view(-1, *self._shape)
