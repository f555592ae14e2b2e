"""What the heads made, brought out: on the CPU, in the output dtype, every value finite."""

from __future__ import annotations

__all__ = ["all_finite", "finished"]

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import overload

import numpy as np
import torch
from torch import Tensor

from tercet.embedder.flight import Made
from tercet.embeddings import Embeddings, MultiVectors, SparseVectors
from tercet.errors import NonFiniteError
from tercet.precision.dtype import DType


def finished(
    made: Made,
    lengths: Sequence[int],
    truncated: list[bool],
    output: DType,
    *,
    first: int,
    again: Sequence[int] = (),
) -> Embeddings:
    """One batch's embeddings of what the heads made: on the CPU, in the output dtype, finite.

    Args:
        made: dense, sparse and multi-vector outputs.
        lengths: tokens of each text.
        truncated: which texts were cut.
        output: the dtype of the results.
        first: number of the batch's first text.
        again: which of its texts were computed again in float32.

    Raises:
        NonFiniteError: naming the first text of which a value is not finite.
    """
    flags = torch.zeros(len(lengths), dtype=torch.bool)
    if again:
        flags[list(again)] = True
    dense, sparse, multivector = made
    result = Embeddings(
        dense=_on_cpu(dense, output.torch),
        sparse=_on_cpu(sparse, output.torch),
        multivector=_on_cpu(multivector, output.torch),
        num_tokens=torch.tensor(lengths, dtype=torch.int64),
        truncated=torch.tensor(truncated, dtype=torch.bool),
        recomputed=flags,
    )
    _check_finite(result, first, output)
    return result


@overload
def _on_cpu(vectors: None, dtype: torch.dtype) -> None: ...
@overload
def _on_cpu(vectors: Tensor, dtype: torch.dtype) -> Tensor: ...
@overload
def _on_cpu(vectors: SparseVectors, dtype: torch.dtype) -> SparseVectors: ...
@overload
def _on_cpu(vectors: MultiVectors, dtype: torch.dtype) -> MultiVectors: ...
def _on_cpu(
    vectors: Tensor | SparseVectors | MultiVectors | None, dtype: torch.dtype
) -> Tensor | SparseVectors | MultiVectors | None:
    """One output on the CPU in the dtype of results, in memory that holds nothing else; None of None."""
    if vectors is None:
        return None
    if isinstance(vectors, SparseVectors):
        if vectors.weights.is_cpu and vectors.weights.dtype == dtype:
            return vectors
        weights = vectors.weights.to("cpu", dtype)
        return SparseVectors(vectors.token_ids.cpu(), weights, vectors.offsets.cpu(), vectors.vocabulary)
    if isinstance(vectors, MultiVectors):
        rows = _on_cpu(vectors.vectors, dtype)
        return vectors if rows is vectors.vectors else MultiVectors(rows, vectors.offsets.cpu())
    # The first columns of wider rows, not normalised, would hold the others in memory.
    return vectors.to("cpu", dtype).contiguous()


def _check_finite(result: Embeddings, first: int, output: DType) -> None:
    """An error that names the first text of which a value is not finite.

    Args:
        result: one batch's.
        first: number of its first text.
        output: the dtype of its values.
    """
    for index in _first_bad_texts(result):
        raise NonFiniteError(
            f"text {first + index} gives a value that is not finite or leaves the range of the output dtype "
            f"{output} (largest number {output.max:g}). Pass output_dtype='float32', or normalize=True; "
            "if that is so already, a module behind the encoder is damaged: fetch the model again."
        )


def all_finite(values: Tensor) -> bool:
    """Whether the sum of all numbers is finite, which it is only if each of them is.

    False in rare cases of finite numbers, too: who gets it looks at them one by one.
    """
    if values.is_cpu and values.dtype in (torch.float32, torch.float64):
        # In this thread: those of torch would go on spinning, on cores that the tokenizer needs.
        with np.errstate(over="ignore", invalid="ignore"):
            return isfinite(values.detach().numpy().sum())
    wide = torch.float64 if values.dtype == torch.float64 else torch.float32
    return isfinite(values.sum(dtype=wide).item())


def _first_bad_texts(result: Embeddings) -> Iterator[int]:
    """The first text with a value that is not finite, of each output that has one."""
    if result.dense is not None and (row := _first_bad_row(result.dense)) is not None:
        yield row
    for ragged in (result.sparse, result.multivector):
        if ragged is None:
            continue
        row = _first_bad_row(ragged.weights if isinstance(ragged, SparseVectors) else ragged.vectors)
        if row is not None:
            yield int(torch.searchsorted(ragged.offsets, row, right=True)) - 1


def _first_bad_row(values: Tensor) -> int | None:
    if all_finite(values):
        return None
    bad = (~torch.isfinite(values)).nonzero()
    return int(bad[0, 0]) if len(bad) else None
