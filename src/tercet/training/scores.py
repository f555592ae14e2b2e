"""How well queries and passages match by one kind of output, with gradients, always in float32 or wider."""

from __future__ import annotations

__all__ = ["Head", "group_scores", "group_size", "scores", "zero_texts"]

from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from tercet.embeddings import MultiVectors, SparseVectors
from tercet.errors import InputError
from tercet.scoring.blocks import wide
from tercet.training.late_scores import late_group_scores, late_scores
from tercet.training.outputs import Outputs
from tercet.training.sparse_scores import num_zero, sparse_group_scores, sparse_scores

Head: TypeAlias = Literal["dense", "sparse", "multivector"]


def scores(queries: Outputs, passages: Outputs, head: Head, *, normalize: bool = False) -> Tensor:
    """(queries, passages), dot products of all with all; late interaction is averaged over query tokens.

    Args:
        queries: outputs that hold this head.
        passages: the same.
        head: what is compared.
        normalize: dense vectors are brought to unit length first; the others stay as they are.
    """
    left, right = _read(queries, head, "queries"), _read(passages, head, "passages")
    if isinstance(left, SparseVectors) and isinstance(right, SparseVectors):
        return sparse_scores(left, right)
    if isinstance(left, MultiVectors) and isinstance(right, MultiVectors):
        return late_scores(left, right)
    left, right = _dense(left, right, normalize)
    with torch.autocast(left.device.type, enabled=False):
        return left @ right.T


def group_scores(queries: Outputs, passages: Outputs, head: Head, *, normalize: bool = False) -> Tensor:
    """(queries, group), scores of each query with its own passages alone; see `scores`."""
    group = group_size(queries, passages)
    left, right = _read(queries, head, "queries"), _read(passages, head, "passages")
    if isinstance(left, SparseVectors) and isinstance(right, SparseVectors):
        return sparse_group_scores(left, right)
    if isinstance(left, MultiVectors) and isinstance(right, MultiVectors):
        return late_group_scores(left, right)
    left, right = _dense(left, right, normalize)
    return (left[:, None] * right.view(len(left), group, -1)).sum(-1)


def group_size(queries: Outputs, passages: Outputs) -> int:
    """Passages of each query: its positive first, then its negatives."""
    if len(queries) == 0:
        raise InputError("A batch without queries has no loss. Leave it out, or raise batch.texts.")
    group, rest = divmod(len(passages), len(queries))
    if group == 0 or rest:
        raise InputError(
            f"{len(passages)} passages for {len(queries)} queries: every query needs the same number of "
            "them, its positive first. Draw as many negatives for each query (group_size)."
        )
    return group


def zero_texts(queries: Outputs, passages: Outputs) -> dict[str, Tensor]:
    """How many sparse vectors of each side are all zero: their scores are 0 and they learn nothing."""
    found = {}
    if queries.sparse is not None:
        found["zero_sparse_queries"] = num_zero(queries.sparse)
    if passages.sparse is not None:
        found["zero_sparse_passages"] = num_zero(passages.sparse)
    return found


def _dense(left: object, right: object, normalize: bool) -> tuple[Tensor, Tensor]:
    assert isinstance(left, Tensor)
    assert isinstance(right, Tensor)
    if left.shape[1] != right.shape[1]:
        raise InputError(f"Dense outputs must have one width, not {left.shape[1]} and {right.shape[1]}.")
    dtype = wide(left, right)
    left, right = left.to(dtype), right.to(dtype)
    if normalize:
        return functional.normalize(left, dim=-1), functional.normalize(right, dim=-1)
    return left, right


def _read(outputs: Outputs, head: Head, side: str) -> Tensor | SparseVectors | MultiVectors:
    found = {"dense": outputs.dense, "sparse": outputs.sparse, "multivector": outputs.multivector}
    if head not in found:
        raise InputError(f"head is {head!r}; give 'dense', 'sparse' or 'multivector'.")
    value = found[head]
    if value is None:
        raise InputError(
            f"The {side} have no {head} output, only {', '.join(outputs.names)}. Give the model that head, "
            "or the loss another."
        )
    return value
