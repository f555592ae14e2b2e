"""What all scores share: the dtype they are computed in, and how much is worked on at once."""

from __future__ import annotations

__all__ = ["BLOCK", "check_pairs", "runs", "wide"]

import torch
from torch import Tensor

from tercet.errors import InputError

# Numbers of one intermediate matrix: 16 MiB in float32, which stays in a shared cache.
BLOCK = 1 << 22


def wide(*tensors: Tensor) -> torch.dtype:
    """float64 if one is, else float32: sums of many products lose too much in half precision."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def runs(lengths: Tensor, *, most: int) -> list[tuple[int, int]]:
    """Runs of texts of at most `most` rows together, as (first, after the last); a longer text goes alone."""
    found, start, rows = [], 0, 0
    for text, length in enumerate(lengths.tolist()):
        if rows + length > most and text > start:
            found.append((start, text))
            start, rows = text, 0
        rows += length
    return [*found, (start, len(lengths))] if len(lengths) else []


def check_pairs(queries: int, documents: int) -> None:
    """An InputError unless there are as many queries as documents."""
    if queries != documents:
        raise InputError(f"Pairs need as many queries as documents, not {queries} and {documents}.")
