"""What each of two processes does in the test of training in several, where new processes find it."""

from __future__ import annotations

__all__ = ["train_in_two"]

import os
from typing import Any

import torch


def train_in_two(rank: int, recipe: dict[str, Any]) -> None:
    """One process of a run, as torchrun would start it."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{os.getcwd()}/store", rank=rank, world_size=2
    )
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}

    from tercet.training.trainer import train

    train(recipe, device="cpu")
    torch.distributed.destroy_process_group()
