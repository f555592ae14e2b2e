"""Losses that are means over queries, some at a time, so that no matrix of scores outgrows a budget."""

from __future__ import annotations

__all__ = ["SCORE_BYTES", "Rows", "alone", "mean_over_queries"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tercet.errors import InputError
from tercet.training.distributed import gather_passages
from tercet.training.outputs import Outputs
from tercet.training.scores import Head, group_scores, group_size, scores
from tercet.training.targets import Targets

# All matrices of scores that are alive at once, before what a softmax makes of them.
SCORE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Rows:
    """The scores of some queries.

    Attributes:
        scores: head -> (rows, columns), in-batch the scores with all passages, else with the own group; -inf
            where a passage is not this query's negative.
        first: the column of each query's positive, (rows,) int64; its negatives follow.
        group: passages of a query.
        teacher: (rows, group) the teacher's scores, or None.
    """

    scores: Mapping[Head, Tensor]
    first: Tensor
    group: int
    teacher: Tensor | None

    def own(self, scores: Tensor) -> Tensor:
        """(rows, group), those of the own passages."""
        return scores.gather(1, self.columns)

    @property
    def columns(self) -> Tensor:
        """(rows, group) int64, where the own passages stand."""
        return self.first[:, None] + torch.arange(self.group, device=self.first.device)


def mean_over_queries(
    compute: Callable[[Rows], Tensor],
    queries: Outputs,
    passages: Outputs,
    targets: Targets,
    heads: tuple[Head, ...],
    *,
    normalize: bool = False,
    score_bytes: int = SCORE_BYTES,
) -> Tensor:
    """(parts,), the mean over queries of what `compute` gives for each.

    Where the scores of all queries are larger than `score_bytes`, as many queries as fit are taken at a time,
    and their scores are computed a second time in the backward pass.

    Args:
        compute: rows of scores -> (rows, parts).
        queries: (queries) of this process.
        passages: those of each query one after another, its positive first.
        targets: says whether the passages of other queries, and of other processes, are negatives too.
        heads: which scores `compute` reads.
        normalize: dense vectors are brought to unit length.
        score_bytes: the budget.

    Raises:
        InputError: a query has nothing that its positive could be told from.
    """
    group = group_size(queries, passages)
    _check_allowed(targets, len(queries), len(passages), group)
    first_query, scale = 0, 1.0
    if targets.across_devices and targets.in_batch:
        gathered = gather_passages(len(queries), passages)
        passages, first_query, scale = gathered.passages, gathered.first_query, gathered.scale
    columns = len(passages) if targets.in_batch else group
    if columns == 1:
        raise InputError(
            "A query has its positive and no negatives: group_size is 1, and no other passage is in the "
            "batch. The loss would be 0 whatever the model does. Add negatives (tercet mine finds them), "
            "or raise batch.texts with in_batch_negatives."
        )
    teacher = targets.scores
    device = queries.tensors()[0].device

    def some(start: int, end: int) -> Tensor:
        mine = queries[start:end]
        if targets.in_batch:
            found = {head: scores(mine, passages, head, normalize=normalize) for head in heads}
            first = (first_query + torch.arange(start, end, device=device)) * group
            if targets.allowed is not None:
                out = torch.zeros(end - start, columns, dtype=torch.bool, device=device)
                mine_first = first_query * group
                out[:, mine_first : mine_first + targets.allowed.shape[1]] = ~targets.allowed[start:end]
                found = {head: matrix.masked_fill(out, -torch.inf) for head, matrix in found.items()}
        else:
            theirs = passages[start * group : end * group]
            found = {head: group_scores(mine, theirs, head, normalize=normalize) for head in heads}
            first = torch.zeros(end - start, dtype=torch.int64, device=device)
        rows = Rows(found, first, group, None if teacher is None else teacher[start:end])
        return compute(rows).sum(dim=0)

    step = max(1, score_bytes // (4 * columns * len(heads)))
    if step >= len(queries):
        total = some(0, len(queries))
    else:
        starts = range(0, len(queries), step)
        bounds = [(start, min(start + step, len(queries))) for start in starts]
        parts = [checkpoint(some, *bound, use_reentrant=False, preserve_rng_state=False) for bound in bounds]
        total = torch.stack(parts).sum(dim=0)
    return total * (scale / len(queries))


def alone(targets: Targets) -> dict[str, Tensor]:
    """How many queries are told from nothing, because no passage but their positive is allowed to them."""
    if targets.allowed is None or not targets.in_batch or targets.across_devices:
        return {}
    return {"alone": (targets.allowed.sum(dim=1) < 2).sum()}


def _check_allowed(targets: Targets, queries: int, passages: int, group: int) -> None:
    allowed = targets.allowed
    if allowed is None:
        return
    if allowed.shape != (queries, passages) or allowed.dtype != torch.bool:
        raise InputError(
            f"allowed is (queries, passages) booleans, here {(queries, passages)}, not "
            f"{tuple(allowed.shape)} {allowed.dtype}."
        )
    first = torch.arange(queries, device=allowed.device)[:, None] * group
    own = allowed.gather(1, first + torch.arange(group, device=allowed.device))
    if not bool(own.all()):
        raise InputError("allowed leaves out a query's own passage. Its own group always counts.")
