"""What comes out: dense, sparse and multi-vector embeddings of texts, ragged by offsets, never padded."""

from __future__ import annotations

__all__ = ["Embeddings", "MultiVectors", "SparseVectors"]

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class MultiVectors:
    """Late-interaction vectors of several texts.

    Attributes:
        vectors: (tokens, dim), unit rows unless normalisation was turned off.
        offsets: (texts + 1,) int64, where each text's rows begin.
    """

    vectors: Tensor
    offsets: Tensor


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Embeddings of several texts, in the order of the texts.

    Attributes:
        dense: (texts, dim), or None where it was not asked for.
        sparse: lexical weights, or None.
        multivector: late-interaction vectors, or None.
        num_tokens: (texts,) int64, tokens that were embedded, special tokens included.
        truncated: (texts,) bool, whether a text was longer than the model takes.
        recomputed: (texts,) bool, whether a value was not finite in the planned dtype and the text was computed again in float32.
    """

    dense: Tensor | None
    sparse: SparseVectors | None
    multivector: MultiVectors | None
    num_tokens: Tensor
    truncated: Tensor
    recomputed: Tensor
