"""How alike two sets of dense vectors are: the four measures of sentence-transformers, in float32."""

from __future__ import annotations

__all__ = ["PAIRWISE", "SIMILARITIES", "Vectors", "similarity_name"]

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from tercet.errors import InputError, UnknownNameError, nearest
from tercet.layers.norm import unit_rows
from tercet.scoring import dense_pairs, dense_scores
from tercet.scoring.blocks import wide

Vectors: TypeAlias = Tensor | np.ndarray | Sequence[Tensor] | Sequence[np.ndarray] | Sequence[float]


def similarity_name(value: object) -> str | None:
    """The measure's name, from that library's enumeration or a string; None of None.

    Raises:
        UnknownNameError: there is no such measure; the message gives the nearest.
    """
    if value is None:
        return None
    name = value.value if isinstance(value, Enum) else value
    if not isinstance(name, str) or name not in SIMILARITIES:
        hint = "Late interaction is tercet.scoring.maxsim. " if name in ("maxsim", "meanmaxsim") else ""
        raise UnknownNameError(
            f"similarity_fn_name is {value!r}, which is no measure of dense vectors. "
            f"{hint}{nearest(str(name), SIMILARITIES)}"
        )
    return name


def _rows(vectors: Vectors) -> Tensor:
    """(vectors, dim) in float32, or in float64 where it comes in; one vector is a matrix of one."""
    found = _tensors(vectors)
    if isinstance(found, list):
        if not found:
            raise InputError("There are no embeddings to compare: the list is empty.")
        if len({part.shape for part in found}) > 1:
            raise InputError(
                "Embeddings of different widths cannot be compared: encode all with one truncate_dim."
            )
        found = torch.stack(found)
    if found.ndim == 1:
        found = found[None]
    if found.ndim != 2 or found.is_sparse or found.is_complex():
        raise InputError(
            f"Embeddings to compare must be (texts, dim) or (dim,), dense and real, not {tuple(found.shape)}."
        )
    return found.to(wide(found))


def _tensors(vectors: Vectors) -> Tensor | list[Tensor]:
    try:
        if isinstance(vectors, (Tensor, np.ndarray)):
            return torch.as_tensor(vectors)
        return [torch.as_tensor(part) for part in vectors]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Embeddings to compare are no numbers ({type(vectors).__name__}). Pass what encode() gave."
        ) from error


def _both(first: Vectors, second: Vectors) -> tuple[Tensor, Tensor]:
    left, right = _rows(first), _rows(second)
    dtype = wide(left, right)
    if left.shape[1] != right.shape[1]:
        raise InputError(
            f"Embeddings of {left.shape[1]} and {right.shape[1]} dimensions cannot be compared: "
            "encode all with one model and one truncate_dim."
        )
    return left.to(dtype), right.to(dtype)


def _cosine(left: Tensor, right: Tensor) -> Tensor:
    return dense_scores(unit_rows(left), unit_rows(right))


def _euclidean(left: Tensor, right: Tensor) -> Tensor:
    # Not by the dot product, which torch takes for many rows: of near vectors it keeps only half the digits.
    return -torch.cdist(left, right, p=2.0, compute_mode="donot_use_mm_for_euclid_dist")


def _manhattan(left: Tensor, right: Tensor) -> Tensor:
    return -torch.cdist(left, right, p=1.0)


def _cosine_pairs(left: Tensor, right: Tensor) -> Tensor:
    return dense_pairs(unit_rows(left), unit_rows(right))


def _euclidean_pairs(left: Tensor, right: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(left - right, dim=1)
    return -lengths


def _manhattan_pairs(left: Tensor, right: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(left - right, ord=1, dim=1)
    return -lengths


def _of_all(measure: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Vectors, Vectors], Tensor]:
    def measured(first: Vectors, second: Vectors) -> Tensor:
        return measure(*_both(first, second))

    return measured


def _of_pairs(measure: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Vectors, Vectors], Tensor]:
    def measured(first: Vectors, second: Vectors) -> Tensor:
        left, right = _both(first, second)
        if len(left) != len(right) and 1 not in (len(left), len(right)):
            raise InputError(
                f"{len(left)} and {len(right)} embeddings make no pairs. Pass as many, or one against all."
            )
        rows = max(len(left), len(right))
        scores = measure(left.expand(rows, -1), right.expand(rows, -1))
        # Two vectors, not in a list, are one pair, and that has one number.
        return scores[0] if _is_one(first) and _is_one(second) else scores

    return measured


def _is_one(vectors: Vectors) -> bool:
    if isinstance(vectors, (Tensor, np.ndarray)):
        return vectors.ndim == 1
    return not hasattr(vectors[0], "__len__") and getattr(vectors[0], "ndim", 0) == 0


# name -> (first, dim), (second, dim) -> (first, second); distances are negative, so that more is more alike
SIMILARITIES: Mapping[str, Callable[[Vectors, Vectors], Tensor]] = {
    "cosine": _of_all(_cosine),
    "dot": _of_all(dense_scores),
    "euclidean": _of_all(_euclidean),
    "manhattan": _of_all(_manhattan),
}
# name -> (pairs, dim) twice -> (pairs,)
PAIRWISE: Mapping[str, Callable[[Vectors, Vectors], Tensor]] = {
    "cosine": _of_pairs(_cosine_pairs),
    "dot": _of_pairs(dense_pairs),
    "euclidean": _of_pairs(_euclidean_pairs),
    "manhattan": _of_pairs(_manhattan_pairs),
}
