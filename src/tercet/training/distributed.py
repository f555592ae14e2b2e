"""Passages of all processes, with the gradient that belongs to them."""

from __future__ import annotations

__all__ = ["Gathered", "gather_passages"]

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from tercet.embeddings import MultiVectors, SparseVectors
from tercet.errors import InputError
from tercet.training.outputs import Outputs


@dataclass(frozen=True, slots=True)
class Gathered:
    """The passages of all processes, in the order of ranks.

    Attributes:
        passages: of all.
        first_query: how many queries the processes before this one have.
        scale: processes x own queries / all queries. A mean over own queries times this, averaged over
            processes as DistributedDataParallel averages gradients, is the mean over all queries.
    """

    passages: Outputs
    first_query: int
    scale: float


def gather_passages(num_queries: int, passages: Outputs) -> Gathered:
    """Everyone's passages; the gradient of each is the sum of those that all processes' losses send it.

    With it, the average over processes of the gradients is that of the whole batch on one process.
    (FlagEmbedding keeps the own part of the gradient alone, which leaves 1 / processes of it.)

    Raises:
        InputError: no process group, or processes with other group sizes.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError(
            "Negatives across devices need several processes: start with `accelerate launch` or torchrun, "
            "or leave negatives_across_devices off."
        )
    world, rank = dist.get_world_size(), dist.get_rank()
    device = passages.tensors()[0].device
    own = torch.tensor([num_queries, len(passages)], device=device)
    every = [torch.empty_like(own) for _ in range(world)]
    dist.all_gather(every, own)
    counts = [tuple(one.tolist()) for one in every]
    if len({texts / queries for queries, texts in counts}) > 1:
        raise InputError(
            "Processes have groups of other sizes, as queries and passages: "
            f"{', '.join(map(str, counts))}. Give all files of a batch one group_size."
        )
    queries = [count for count, _ in counts]
    return Gathered(_everyone(passages), sum(queries[:rank]), world * num_queries / sum(queries))


def _everyone(outputs: Outputs) -> Outputs:
    sparse, late = outputs.sparse, outputs.multivector
    return Outputs(
        None if outputs.dense is None else _gather(outputs.dense),
        None
        if sparse is None
        else SparseVectors(
            _gather(sparse.token_ids), _gather(sparse.weights), _offsets(sparse.lengths), sparse.vocabulary
        ),
        None if late is None else MultiVectors(_gather(late.vectors), _offsets(late.lengths)),
    )


def _offsets(lengths: Tensor) -> Tensor:
    every = _gather(lengths)
    return torch.cat([every.new_zeros(1), every.cumsum(0)])


def _gather(rows: Tensor) -> Tensor:
    """The rows of all processes, however many each has."""
    gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    """all_gather of ragged rows; backward, the sum over processes of what they send to one's own rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        world = dist.get_world_size()
        sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world)]
        dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
        counts = [int(size) for size in sizes]
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(parts, padded)
        start = sum(counts[: dist.get_rank()])
        ctx.own = slice(start, start + len(rows))
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad[ctx.own]
