"""What each of two processes does in the tests of sharded training, where new processes find it."""

from __future__ import annotations

__all__ = ["train_shards"]

import json
import os
from pathlib import Path
from typing import Any

import torch


def train_shards(rank: int, runs: list[tuple[dict[str, Any], bool]]) -> None:
    """One process of several runs after one another, each a recipe and whether it goes on.

    Writes held-RANK.json: how many numbers this process held of weights and moments behind each run.
    """
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{os.getcwd()}/store", rank=rank, world_size=2
    )
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}

    from tercet.training import trainer
    from tercet.training.gradients import Gradients

    whole = Gradients.add

    def counted(self: Gradients, *given: Any) -> Any:
        made.append(self)
        return whole(self, *given)

    Gradients.add = counted  # type: ignore[method-assign]
    held: list[dict[str, int]] = []
    for recipe, resume in runs:
        made: list[Gradients] = []
        trainer.train(recipe, device="cpu", resume=resume)
        holder = made[-1].held
        moments = [one for state in holder.optimizer.state.values() for one in state.values() if one.ndim]
        weights = list(holder.model.parameters())
        held.append({"weights": _numbers(weights), "moments": _numbers(moments)})
    Path(f"held-{rank}.json").write_text(json.dumps(held))
    torch.distributed.destroy_process_group()


def _numbers(tensors: list[Any]) -> int:
    return sum((one.to_local() if hasattr(one, "to_local") else one).numel() for one in tensors)
