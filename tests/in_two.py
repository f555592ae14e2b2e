"""Two processes for the tests of work that is shared by several."""

from __future__ import annotations

__all__ = ["in_two"]

from collections.abc import Callable
from multiprocessing import set_forkserver_preload
from typing import Any

from torch.multiprocessing import start_processes

# What takes a process most of its time before it does anything.
_PRELOADED = ["torch", "torch._dynamo", "accelerate", "tercet.training.trainer"]


def in_two(work: Callable[..., None], *given: Any) -> None:
    """Runs work(rank, *given) in two processes, and raises what one of them raises.

    They are forked from a third that has imported torch once for all tests, and has computed nothing with it.
    """
    set_forkserver_preload(_PRELOADED)
    start_processes(work, given, nprocs=2, start_method="forkserver")
