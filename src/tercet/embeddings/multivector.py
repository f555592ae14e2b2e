"""Late-interaction vectors of several texts, ragged by offsets."""

from __future__ import annotations

__all__ = ["MultiVectors"]

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tercet.embeddings.arrays import MultiVectorArrays, to_numpy
from tercet.embeddings.ragged import Key, cast, check_offsets, close, concat_offsets, gather, only, resolve
from tercet.errors import InputError


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MultiVectors:
    """Late-interaction vectors of several texts.

    Attributes:
        vectors: (tokens, dim), unit rows unless normalisation was turned off.
        offsets: (texts + 1,) int64, where each text's rows begin.
    """

    vectors: Tensor
    offsets: Tensor

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2:
            raise InputError(f"MultiVectors: vectors must be (tokens, dim), not {tuple(self.vectors.shape)}.")
        check_offsets("MultiVectors", self.offsets, len(self.vectors))

    @classmethod
    def empty(cls, dim: int, *, dtype: torch.dtype = torch.float32) -> MultiVectors:
        """Those of no text."""
        return cls(torch.zeros(0, dim, dtype=dtype), torch.zeros(1, dtype=torch.int64))

    @classmethod
    def concat(cls, parts: Iterable[MultiVectors]) -> MultiVectors:
        """Those of all parts, in order."""
        parts = list(parts)
        only("the width of the multi-vectors", {part.dim for part in parts})
        only("the dtype of the multi-vectors", {part.vectors.dtype for part in parts})
        return cls(
            torch.cat([part.vectors for part in parts]), concat_offsets([part.offsets for part in parts])
        )

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return int(self.vectors.shape[1])

    @property
    def lengths(self) -> Tensor:
        """(texts,) int64, vectors of each text."""
        return self.offsets.diff()

    def rows(self, text: int) -> Tensor:
        """(tokens, dim), the vectors of one text, in the memory of all."""
        return self[text].vectors

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, key: Key) -> MultiVectors:
        rows, offsets = gather(self.offsets, resolve(key, len(self)))
        return MultiVectors(self.vectors[rows], offsets)

    def __iter__(self) -> Iterator[MultiVectors]:
        return (self[text] for text in range(len(self)))

    def __repr__(self) -> str:
        dtype = str(self.vectors.dtype).removeprefix("torch.")
        return f"MultiVectors({len(self)} texts, {len(self.vectors)} vectors of {self.dim} {dtype})"

    def to(self, dtype: torch.dtype) -> MultiVectors:
        """The same vectors in another floating-point dtype."""
        return MultiVectors(cast("multivector", self.vectors, dtype), self.offsets)

    def numpy(self) -> MultiVectorArrays:
        """The same in NumPy arrays; bfloat16 becomes float32."""
        return MultiVectorArrays(to_numpy(self.vectors), to_numpy(self.offsets))

    def allclose(self, other: MultiVectors, *, rtol: float = 0.0, atol: float = 1e-6) -> bool:
        """Whether both hold the same texts' vectors, up to rounding."""
        return torch.equal(self.offsets.cpu(), other.offsets.cpu()) and close(
            self.vectors, other.vectors, rtol=rtol, atol=atol
        )
