"""A forked child's threads: the pool that the maths library had stayed behind in the parent."""

from __future__ import annotations

__all__ = ["stand_alone"]

import logging
import os

import torch

from tercet.kernels import memory

logger = logging.getLogger(__name__)

# The process in which we last computed: a child that was forked from it finds another's number here.
_computing_process: int | None = None


def stand_alone() -> None:
    """Give up threads in a forked child; to be called before anything is computed."""
    global _computing_process
    process, before = os.getpid(), _computing_process
    _computing_process = process
    if before not in (None, process):
        memory.after_fork()
    if before not in (None, process) and torch.get_num_threads() > 1:
        # The maths library would wait for those threads for ever.
        torch.set_num_threads(1)
        logger.warning(
            "process %d was forked from one that used several threads; it computes with one thread from here "
            "on. Start workers with the 'spawn' method to keep all threads.",
            process,
        )
