"""Memory for results, used again.

The C library gives large blocks back to the system and asks for them anew, so that a batch's every result is
met with page faults, hundreds of thousands in a minute.
"""

from __future__ import annotations

__all__ = ["after_fork", "empty", "forget"]

import threading
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# Below this the C library itself keeps what is freed.
_LEAST_BYTES = 64 << 10
# Kept for later while nobody uses it; what is more goes back to the system.
_MOST_BYTES_KEPT = 64 << 20
_LINE = 64  # bytes; where vector registers are loaded from without crossing lines

_lock = threading.RLock()  # taken again where a collection frees a tensor inside
# Blocks that nobody uses, the last one given back at the end. By their identity: between any two steps a
# collection may give back more, or drop the oldest, so that a place in a list would be another's by then.
_free: dict[int, np.ndarray] = {}


def _given_back(block: np.ndarray) -> None:
    with _lock:
        _free[id(block)] = block
        while sum(free.nbytes for free in list(_free.values())) > _MOST_BYTES_KEPT:
            _free.pop(next(iter(list(_free)), 0), None)


class _Lent(np.ndarray):
    """A block's memory as a tensor sees it; with the last tensor the block comes back."""

    # Bound here: when the interpreter ends, the module's names go before its last tensors do.
    def __del__(self, give_back: Callable[[np.ndarray], None] = _given_back) -> None:
        if self.base is not None:
            give_back(self.base)


def empty(rows: int, columns: int) -> Tensor:
    """(rows, columns) float32, set to nothing; its memory serves again once the last tensor on it is gone."""
    size = 4 * rows * columns
    if size < _LEAST_BYTES:
        return torch.empty(rows, columns, dtype=torch.float32, device="cpu")
    lent = np.ndarray.__new__(_Lent, (rows, columns), np.float32, _block(size))
    return torch.from_numpy(lent)


def after_fork() -> None:
    """In a forked child: a lock that another thread held in the parent would never be given back here."""
    global _lock
    _lock = threading.RLock()
    _free.clear()


def forget() -> None:
    """Give back to the system what is kept for later."""
    with _lock:
        _free.clear()


def _block(size: int) -> np.ndarray:
    """A block of at least `size` bytes: the smallest that is free and not twice as large, or a new one."""
    with _lock:
        fitting = [block for block in list(_free.values()) if size <= block.nbytes <= 2 * size]
        best = min(fitting, key=lambda block: block.nbytes, default=None)
        if best is not None and _free.pop(id(best), None) is not None:
            return best
    # Batches differ by a few rows: an eighth more serves the next as well.
    whole = np.empty(size + size // 8 + _LINE, np.uint8)
    first = -whole.ctypes.data % _LINE
    return whole[first : first + size + size // 8]
