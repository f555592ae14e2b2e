"""What each of two processes does in the test of negatives across devices, where new processes find it."""

from __future__ import annotations

__all__ = ["QUERIES", "SHARES", "losses", "mixed", "targets", "work"]

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from loss_samples import random_outputs
from tercet.errors import InputError
from tercet.training.losses import Loss, make_loss
from tercet.training.outputs import Outputs
from tercet.training.targets import Targets

QUERIES, GROUP = 5, 2
# Which queries a process has: not as many as the other.
SHARES = ((0, 2), (2, 5))
# Two queries may not meet one passage each, of their own process.
ALLOWED = torch.ones(QUERIES, QUERIES * GROUP, dtype=torch.bool)
ALLOWED[[0, 3], [2, 4]] = False
TEACHER = torch.linspace(-1, 1, QUERIES * GROUP).view(QUERIES, GROUP)


def losses() -> dict[str, Loss]:
    """Those that are compared."""
    return {
        "m3": make_loss("m3", {"temperature": 0.5, "self_distill": True}),
        "kl_div": make_loss("kl_div", {"temperature": 0.5}),
        "masked": make_loss("info_nce", {"temperature": 0.5}, head="sparse"),
        "rows": make_loss("info_nce", {"temperature": 0.5, "score_bytes": 1}),
    }


def mixed(factors: Tensor) -> tuple[Outputs, Outputs]:
    """The outputs of all texts, each kind multiplied by one of the weights (queries' and passages' apart)."""
    sides = random_outputs(QUERIES, GROUP, 11)
    made = []
    for number, side in enumerate(sides):
        scaled = [tensor.detach() * factors[number, kind] for kind, tensor in enumerate(side.tensors())]
        made.append(side.replace(scaled))
    return made[0], made[1]


def targets(name: str, start: int, end: int, *, across: bool) -> Targets:
    """Those of some queries."""
    return Targets(
        scores=TEACHER[start:end] if name == "kl_div" else None,
        allowed=ALLOWED[start:end, start * GROUP : end * GROUP] if name == "masked" else None,
        across_devices=across,
    )


def work(rank: int, folder: str) -> None:
    """One process: the gradient of its own part, averaged over processes as DistributedDataParallel does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(SHARES))
    start, end = SHARES[rank]
    found: dict[str, object] = {}
    for name, loss in losses().items():
        factors = torch.ones(2, 3, requires_grad=True)
        queries, passages = mixed(factors)
        mine = queries[start:end], passages[start * GROUP : end * GROUP]
        value = loss(*mine, targets(name, start, end, across=True)).value
        value.backward()
        both = torch.cat([value.detach()[None], factors.grad.flatten()])
        dist.all_reduce(both)
        found[name] = both / len(SHARES)
    try:
        uneven = passages[start * GROUP : end * GROUP - rank * (end - start)]
        losses()["rows"](queries[start:end], uneven, targets("rows", start, end, across=True))
    except InputError as error:
        found["message"] = str(error)
    if rank == 0:
        torch.save(found, Path(folder, "found.pt"))
    dist.destroy_process_group()
