"""The best of many scores, in an order that is the same everywhere."""

from __future__ import annotations

__all__ = ["best"]

import torch
from torch import Tensor

_LAST = (1 << 31) - 1


def best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, largest first, and of equal ones the one that comes first.

    `torch.topk` leaves open which of equal scores it takes, and coarse formats make many.

    Args:
        scores: (rows, columns) of any floating-point dtype, without NaN, fewer than 2**31 columns.
        k: how many; all where there are fewer.

    Returns:
        Scores and columns (int64), each (rows, min(k, columns)).
    """
    k = min(k, scores.shape[1])
    if scores.dtype == torch.float64:
        order = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :k]
        return scores.gather(1, order), order
    # A float32 read as an integer is in the order of its value once the lower bits of negative ones are
    # turned over; below it, the column counted from the end. Every key is another one, so the order is given.
    values = (scores.float() + 0.0).view(torch.int32)  # -0 becomes 0
    ordered = torch.where(values < 0, values ^ _LAST, values).long()
    columns = torch.arange(scores.shape[1], device=scores.device)
    keys = torch.topk((ordered << 31) | (_LAST - columns), k, dim=1).values
    order = _LAST - (keys & _LAST)
    return scores.gather(1, order), order
