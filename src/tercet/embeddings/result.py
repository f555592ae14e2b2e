"""Embeddings: the one type of all results."""

from __future__ import annotations

__all__ = ["Embeddings"]

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tercet.embeddings import stores
from tercet.embeddings.arrays import EmbeddingArrays, to_numpy
from tercet.embeddings.multivector import MultiVectors
from tercet.embeddings.ragged import Key, cast, close, only, resolve
from tercet.embeddings.sparse import SparseVectors
from tercet.errors import InputError


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Embeddings:
    """Embeddings of several texts, in the order of the texts.

    `len` counts texts; an index, a slice, a list or a mask gives the Embeddings of those texts, in the same
    memory where it is one run of texts; iteration gives one text at a time.

    Attributes:
        dense: (texts, dim), or None where it was not asked for.
        sparse: lexical weights, or None.
        multivector: late-interaction vectors, or None.
        num_tokens: (texts,) int64, tokens that were embedded, special tokens included.
        truncated: (texts,) bool, whether a text was longer than the model takes.
        recomputed: (texts,) bool, whether a value was not finite in the planned dtype and the text was
            computed again in float32.
    """

    dense: Tensor | None
    sparse: SparseVectors | None
    multivector: MultiVectors | None
    num_tokens: Tensor
    truncated: Tensor
    recomputed: Tensor

    def __post_init__(self) -> None:
        texts = len(self)
        if self.dense is not None and self.dense.ndim != 2:
            raise InputError(f"Embeddings: dense must be (texts, dim), not {tuple(self.dense.shape)}.")
        for name in ("dense", "sparse", "multivector", "num_tokens", "truncated", "recomputed"):
            part = getattr(self, name)
            if part is not None and len(part) != texts:
                raise InputError(
                    f"Embeddings: {name} has {len(part)} texts, num_tokens {texts}; they must agree."
                )

    @classmethod
    def empty(
        cls,
        *,
        dense_dim: int | None = None,
        vocabulary: int | None = None,
        multivector_dim: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Embeddings:
        """Those of no text; an output whose width is None is absent."""
        flags = torch.zeros(0, dtype=torch.bool)
        return cls(
            dense=None if dense_dim is None else torch.zeros(0, dense_dim, dtype=dtype),
            sparse=None if vocabulary is None else SparseVectors.empty(vocabulary, dtype=dtype),
            multivector=None if multivector_dim is None else MultiVectors.empty(multivector_dim, dtype=dtype),
            num_tokens=torch.zeros(0, dtype=torch.int64),
            truncated=flags,
            recomputed=flags,
        )

    @classmethod
    def concat(cls, parts: Iterable[Embeddings]) -> Embeddings:
        """Those of all parts, in order.

        Raises:
            InputError: no part, or parts with different outputs, widths, vocabularies or dtypes.
        """
        parts = list(parts)
        if not parts:
            raise InputError(
                "There is nothing to join; Embeddings.empty(dense_dim=...) gives those of no text."
            )
        only("the set of outputs", {part.outputs for part in parts})
        dense = [part.dense for part in parts if part.dense is not None]
        sparse = [part.sparse for part in parts if part.sparse is not None]
        multivector = [part.multivector for part in parts if part.multivector is not None]
        if dense:
            only("the width of the dense vectors", {part.shape[1] for part in dense})
            only("the dtype of the dense vectors", {part.dtype for part in dense})
        return cls(
            dense=torch.cat(dense) if dense else None,
            sparse=SparseVectors.concat(sparse) if sparse else None,
            multivector=MultiVectors.concat(multivector) if multivector else None,
            num_tokens=torch.cat([part.num_tokens for part in parts]),
            truncated=torch.cat([part.truncated for part in parts]),
            recomputed=torch.cat([part.recomputed for part in parts]),
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        """Which of "dense", "sparse", "multivector" are there."""
        return tuple(name for name in ("dense", "sparse", "multivector") if getattr(self, name) is not None)

    def __len__(self) -> int:
        return len(self.num_tokens)

    def __getitem__(self, key: Key) -> Embeddings:
        chosen = resolve(key, len(self))
        return Embeddings(
            dense=None if self.dense is None else self.dense[chosen],
            sparse=None if self.sparse is None else self.sparse[chosen],
            multivector=None if self.multivector is None else self.multivector[chosen],
            num_tokens=self.num_tokens[chosen],
            truncated=self.truncated[chosen],
            recomputed=self.recomputed[chosen],
        )

    def __iter__(self) -> Iterator[Embeddings]:
        return (self[text] for text in range(len(self)))

    def __repr__(self) -> str:
        shown = [f"{len(self)} texts"]
        if self.dense is not None:
            dtype = str(self.dense.dtype).removeprefix("torch.")
            shown.append(f"dense={tuple(self.dense.shape)} {dtype}")
        if self.sparse is not None:
            shown.append(f"sparse={len(self.sparse.token_ids)} entries of {self.sparse.vocabulary}")
        if self.multivector is not None:
            shown.append(f"multivector={tuple(self.multivector.vectors.shape)}")
        return f"Embeddings({', '.join(shown)})"

    def to(self, dtype: torch.dtype) -> Embeddings:
        """The same vectors in another floating-point dtype.

        Raises:
            NonFiniteError: a value is too large for it.
        """
        return Embeddings(
            dense=None if self.dense is None else cast("dense", self.dense, dtype),
            sparse=None if self.sparse is None else self.sparse.to(dtype),
            multivector=None if self.multivector is None else self.multivector.to(dtype),
            num_tokens=self.num_tokens,
            truncated=self.truncated,
            recomputed=self.recomputed,
        )

    def numpy(self) -> EmbeddingArrays:
        """The same in NumPy arrays; bfloat16, which NumPy lacks, becomes float32, every other dtype stays."""
        return EmbeddingArrays(
            dense=None if self.dense is None else to_numpy(self.dense),
            sparse=None if self.sparse is None else self.sparse.numpy(),
            multivector=None if self.multivector is None else self.multivector.numpy(),
            num_tokens=to_numpy(self.num_tokens),
            truncated=to_numpy(self.truncated),
            recomputed=to_numpy(self.recomputed),
        )

    def allclose(self, other: Embeddings, *, rtol: float = 0.0, atol: float = 1e-6) -> bool:
        """Whether both hold the same outputs of the same texts, up to rounding."""
        if self.outputs != other.outputs or not torch.equal(self.num_tokens.cpu(), other.num_tokens.cpu()):
            return False
        if not torch.equal(self.truncated.cpu(), other.truncated.cpu()):
            return False
        same = True
        if self.dense is not None and other.dense is not None:
            same &= close(self.dense, other.dense, rtol=rtol, atol=atol)
        if self.sparse is not None and other.sparse is not None:
            same &= self.sparse.allclose(other.sparse, rtol=rtol, atol=atol)
        if self.multivector is not None and other.multivector is not None:
            same &= self.multivector.allclose(other.multivector, rtol=rtol, atol=atol)
        return same

    def to_qdrant(self) -> list[dict[str, Any]]:
        """Named vectors of each text, as `PointStruct(vector=...)` or Qdrant's REST interface take them.

        Returns:
            "dense": list of floats; "sparse": {"indices", "values"}; "multivector": list of lists. Name the
            collection's vectors so, "multivector" with the comparator max_sim.

        Raises:
            InputError: a vector that Qdrant refuses; the message names the text.
        """
        return stores.to_qdrant(self.dense, self.sparse, self.multivector)

    def to_milvus(self) -> list[dict[str, Any]]:
        """The vector fields of each text's row, as `MilvusClient.insert` takes them.

        Returns:
            "dense": list of floats; "sparse": {token id: weight}; "multivector": list of {"vector": floats},
            an array of structs (Milvus 2.6.4 or later).

        Raises:
            InputError: a vector that Milvus refuses; the message names the text.
        """
        return stores.to_milvus(self.dense, self.sparse, self.multivector)

    def to_pgvector(self) -> list[dict[str, Any]]:
        """The vectors of each text in pgvector's text form, which any PostgreSQL driver sends.

        Returns:
            "dense": "[0.1,...]" for a column vector(dim); "sparse": "{3:0.5,...}/vocabulary" for sparsevec,
            counted from 1; "multivector": a list of "[...]" for vector(dim)[].

        Raises:
            InputError: a vector that pgvector refuses; the message names the text.
        """
        return stores.to_pgvector(self.dense, self.sparse, self.multivector)
