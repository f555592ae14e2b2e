"""Lexical weights of several texts, ragged by offsets."""

from __future__ import annotations

__all__ = ["CSRParts", "SparseVectors", "TokenNames"]

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tercet.embeddings.arrays import SparseArrays, to_numpy
from tercet.embeddings.ragged import Key, cast, check_offsets, concat_offsets, gather, only, resolve
from tercet.errors import InputError
from tercet.extras import require


class TokenNames(Protocol):
    """What knows the vocabulary's pieces: a tokenizer."""

    def id_to_token(self, token_id: int, /) -> str:
        """The piece of the vocabulary that an id stands for."""
        ...


class CSRParts(NamedTuple):
    """A matrix (texts, vocabulary) in compressed rows: `csr_array(parts[:3], shape=parts.shape)` of SciPy."""

    data: NDArray[Any]
    indices: NDArray[Any]
    indptr: NDArray[Any]
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SparseVectors:
    """Lexical weights of several texts.

    Attributes:
        token_ids: (entries,) int64, ascending within each text, each id at most once a text.
        weights: (entries,) above 0.
        offsets: (texts + 1,) int64, where each text's entries begin.
        vocabulary: number of columns of the matrix that they stand for.
    """

    token_ids: Tensor
    weights: Tensor
    offsets: Tensor
    vocabulary: int

    def __post_init__(self) -> None:
        if self.token_ids.ndim != 1 or self.token_ids.shape != self.weights.shape:
            raise InputError(
                "SparseVectors: token_ids and weights must both be (entries,), "
                f"not {tuple(self.token_ids.shape)} and {tuple(self.weights.shape)}."
            )
        check_offsets("SparseVectors", self.offsets, len(self.token_ids))
        lowest, highest = (int(end) for end in self.token_ids.aminmax()) if len(self.token_ids) else (0, 0)
        if lowest < 0 or highest >= max(self.vocabulary, 1):
            raise InputError(
                f"SparseVectors: ids go from {lowest} to {highest}, the vocabulary is {self.vocabulary}."
            )
        if bool((self.keys().diff() <= 0).any()):
            raise InputError("SparseVectors: token_ids must ascend within each text, each at most once.")

    @classmethod
    def empty(cls, vocabulary: int, *, dtype: torch.dtype = torch.float32) -> SparseVectors:
        """Those of no text."""
        none = torch.zeros(0, dtype=torch.int64)
        return cls(none, torch.zeros(0, dtype=dtype), torch.zeros(1, dtype=torch.int64), vocabulary)

    @classmethod
    def concat(cls, parts: Iterable[SparseVectors]) -> SparseVectors:
        """Those of all parts, in order."""
        parts = list(parts)
        vocabulary = only("the vocabulary", {part.vocabulary for part in parts})
        only("the dtype of the sparse weights", {part.weights.dtype for part in parts})
        return cls(
            torch.cat([part.token_ids for part in parts]),
            torch.cat([part.weights for part in parts]),
            concat_offsets([part.offsets for part in parts]),
            vocabulary,
        )

    @property
    def lengths(self) -> Tensor:
        """(texts,) int64, entries of each text."""
        return self.offsets.diff()

    @property
    def rows(self) -> Tensor:
        """(entries,) int64, the text of each entry."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.offsets.device), self.lengths)

    def keys(self) -> Tensor:
        """(entries,) int64, text x vocabulary + token id: ascending, so entries can be searched."""
        return self.rows * self.vocabulary + self.token_ids

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, key: Key) -> SparseVectors:
        rows, offsets = gather(self.offsets, resolve(key, len(self)))
        return SparseVectors(self.token_ids[rows], self.weights[rows], offsets, self.vocabulary)

    def __iter__(self) -> Iterator[SparseVectors]:
        return (self[text] for text in range(len(self)))

    def __repr__(self) -> str:
        dtype = str(self.weights.dtype).removeprefix("torch.")
        return f"SparseVectors({len(self)} texts, {len(self.token_ids)} entries of {self.vocabulary} {dtype})"

    def to(self, dtype: torch.dtype) -> SparseVectors:
        """The same weights in another floating-point dtype."""
        return SparseVectors(
            self.token_ids, cast("sparse", self.weights, dtype), self.offsets, self.vocabulary
        )

    def numpy(self) -> SparseArrays:
        """The same in NumPy arrays; bfloat16 becomes float32."""
        return SparseArrays(
            to_numpy(self.token_ids), to_numpy(self.weights), to_numpy(self.offsets), self.vocabulary
        )

    def csr(self) -> CSRParts:
        """The matrix (texts, vocabulary) in compressed rows; half precision becomes float32."""
        # SciPy has no half precision
        weights = self.weights if self.weights.dtype == torch.float64 else self.weights.float()
        largest = max(self.vocabulary, len(self.token_ids))
        index = np.int32 if largest <= np.iinfo(np.int32).max else np.int64
        return CSRParts(
            to_numpy(weights),
            to_numpy(self.token_ids).astype(index, copy=False),
            to_numpy(self.offsets).astype(index, copy=False),
            (len(self), self.vocabulary),
        )

    def to_scipy(self) -> Any:
        """A `scipy.sparse.csr_array` (texts, vocabulary).

        Raises:
            MissingExtraError: SciPy is not installed.
        """
        sparse = require("scipy.sparse", extra="scipy", purpose="Converting sparse vectors to a SciPy matrix")
        parts = self.csr()
        return sparse.csr_array((parts.data, parts.indices, parts.indptr), shape=parts.shape)

    def to_dicts(self) -> list[dict[int, float]]:
        """{token id: weight} of each text, in Python's own numbers, which JSON takes."""
        ids, weights = self.token_ids.tolist(), self.weights.tolist()
        return [
            dict(zip(ids[start:end], weights[start:end], strict=True))
            for start, end in pairwise(self.offsets.tolist())
        ]

    def tokens(self, tokenizer: TokenNames) -> list[dict[str, float]]:
        """{piece of the vocabulary: weight} of each text.

        Pieces are named as the vocabulary has them ("▁word" at a word's start, "word" within one), since
        decoded they would read alike and overwrite each other; a name that is taken gets its id: "x<7>".
        """
        found = []
        for weights in self.to_dicts():
            named: dict[str, float] = {}
            for token_id, weight in weights.items():
                name = tokenizer.id_to_token(token_id)
                named[name if name not in named else f"{name}<{token_id}>"] = weight
            found.append(named)
        return found

    def top(self, k: int) -> SparseVectors:
        """The k largest weights of each text (of equal ones, those of smaller ids), ascending by token id."""
        if k < 0:
            raise InputError(f"top({k}): give the number of weights to keep, 0 or more.")
        rows = self.rows
        order = torch.argsort(self.weights, descending=True, stable=True)
        order = order[torch.argsort(rows[order], stable=True)]
        rank = torch.arange(len(rows), device=rows.device) - self.offsets[:-1][rows]
        keep = order[rank < k].sort().values
        lengths = self.lengths.clamp(max=k)
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        return SparseVectors(self.token_ids[keep], self.weights[keep], offsets, self.vocabulary)

    def allclose(self, other: SparseVectors, *, rtol: float = 0.0, atol: float = 1e-6) -> bool:
        """Whether both hold the same weights, up to rounding; an absent entry counts as a weight of 0."""
        if len(self) != len(other) or self.vocabulary != other.vocabulary:
            return False
        keys, places = np.unique(to_numpy(torch.cat([self.keys(), other.keys()])), return_inverse=True)
        left, right = np.zeros((2, len(keys)))
        left[places[: len(self.weights)]] = to_numpy(self.weights)
        right[places[len(self.weights) :]] = to_numpy(other.weights)
        return bool(np.allclose(left, right, rtol=rtol, atol=atol))
