"""Free memory given back to the system, where the C library keeps it."""

from __future__ import annotations

__all__ = ["give_back_free_memory"]

import ctypes
import sys
from functools import cache
from typing import Any


def give_back_free_memory() -> None:
    """Have glibc return the pages of its heap that nothing uses; elsewhere nothing happens.

    A batch's large temporary results leave holes of many sizes, between which small results stay; glibc keeps
    such holes resident, and a process that embeds a corpus grows by a gigabyte in a minute. Milliseconds.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    """glibc's malloc_trim, or None with another C library."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
