"""Task arithmetic in its kinds: what each model adds to the base, thinned out, agreed on by sign, added up.

The kinds differ in which entries of a task vector are kept, and in whether signs must agree (Ilharco et al.
2023, TIES: Yadav et al. 2023, DARE: Yu et al. 2024, Model Breadcrumbs: Davari and Belilovsky 2024, DELLA:
Deep et al. 2024).
"""

from __future__ import annotations

__all__ = ["Masks", "arithmetic", "by_magnitude", "parameters"]

from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from tercet.merging.method import Asked, Chunk, OnThreshold, Parameter, Pass, Steps, Task
from tercet.merging.selection import largest

# (chunk, its task vectors) -> which entries of each are kept; None for all
Masks = Callable[[Chunk, Sequence[Tensor]], Sequence[Tensor | None]]

# Below this sum of magnitudes nothing is rescaled, as in mergekit.
_NO_LENGTH = 1e-7


def parameters(*, normalize: bool, rescale: bool, more: Sequence[Parameter] = ()) -> tuple[Parameter, ...]:
    """The parameters that all kinds share, with the defaults in which they differ."""
    return (
        Parameter("weight", float, per_input=True),
        Parameter("density", float, 1.0, per_input=True, least=0, share=True),
        Parameter("normalize", bool, normalize),
        Parameter("rescale", bool, rescale),
        Parameter("lambda", float, 1.0),
        Parameter("int8_mask", bool, False),  # mergekit's; what it saves there is not held here
        *more,
    )


def arithmetic(task: Task, masks: Masks | None, *, consensus: bool) -> Steps:
    """The base and the weighted sum of what is kept.

    Args:
        task: with weight, normalize, rescale and lambda.
        masks: what is kept; None for everything.
        consensus: keep only entries whose sign is that of the weighted sum, 0 counted as positive.
    """
    weights = [float(weight) for weight in task.values("weight")]
    scales = [1.0] * len(weights)
    if masks is not None and task.settings["rescale"]:
        sums = yield Pass(_lengths(masks))
        scales = [
            float(before / after) if min(before, after) >= _NO_LENGTH else 1.0 for before, after in sums
        ]
    factors = [weight * scale for weight, scale in zip(weights, scales, strict=True)]

    def apply(chunk: Chunk) -> Tensor:
        assert chunk.base is not None
        deltas = chunk.deltas()
        parts = [factor * delta for factor, delta in zip(factors, deltas, strict=True)]
        if masks is not None:
            for part, mask in zip(parts, masks(chunk, deltas), strict=True):
                if mask is not None:
                    part.masked_fill_(~mask, 0.0)
        mixed = _agreed(parts, weights, task) if consensus else _added(parts, weights, task)
        mixed *= float(task.settings["lambda"])
        return (chunk.base.double() + mixed).to(chunk.base.dtype)

    return apply


def by_magnitude(task: Task, kept: Sequence[tuple[int, int] | None]) -> Generator[Asked, Any, Masks]:
    """Masks of the entries of each task vector that stand in a range of its order by magnitude.

    Args:
        task: the tensor.
        kept: of each input how many of the largest are left out, and how many after them are kept; None for
            all. Of equal entries the first ones count as the larger.
    """
    wanted: dict[tuple[int, int], None] = {}
    for place, span in enumerate(kept):
        if span is not None:
            skipped, taken = span
            wanted |= {(place, count): None for count in (skipped, skipped + taken) if taken and count}
    found = yield from largest(
        lambda chunk: [delta.abs() for delta in chunk.deltas()], list(wanted), task.numbers
    )
    among = dict(zip(wanted, found, strict=True))
    yield OnThreshold(sum(one.undecided for one in found))

    def masks(chunk: Chunk, deltas: Sequence[Tensor]) -> list[Tensor | None]:
        made: list[Tensor | None] = []
        for place, (delta, span) in enumerate(zip(deltas, kept, strict=True)):
            if span is None:
                made.append(None)
                continue
            skipped, taken = span
            if not taken:
                made.append(torch.zeros_like(delta, dtype=torch.bool))
                continue
            magnitudes = delta.abs()
            mask = among[place, skipped + taken].mask(magnitudes, chunk.first)
            if skipped:
                mask &= ~among[place, skipped].mask(magnitudes, chunk.first)
            made.append(mask)
        return made

    return masks


def _added(parts: Sequence[Tensor], weights: Sequence[float], task: Task) -> Tensor:
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    weight = sum(weights)
    if task.settings["normalize"] and abs(weight) >= 1e-8:
        total /= weight
    return total


def _agreed(parts: Sequence[Tensor], weights: Sequence[float], task: Task) -> Tensor:
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    sign = (total >= 0).double().mul_(2).sub_(1)
    mixed, divisor = torch.zeros_like(total), torch.zeros_like(total)
    for part, weight in zip(parts, weights, strict=True):
        along = part * sign
        mixed += along.clamp(min=0)
        divisor.add_(along > 0, alpha=weight)
    mixed *= sign
    if task.settings["normalize"]:
        mixed /= torch.where(divisor == 0, 1.0, divisor)
    return mixed


def _lengths(masks: Masks) -> Callable[[Chunk], Tensor]:
    """(inputs, 2) the sums of magnitudes before and after."""

    def statistics(chunk: Chunk) -> Tensor:
        deltas = chunk.deltas()
        rows: list[Any] = []
        for delta, mask in zip(deltas, masks(chunk, deltas), strict=True):
            magnitudes = delta.abs()
            before = magnitudes.sum()
            rows.append(torch.stack([before, before if mask is None else magnitudes[mask].sum()]))
        return torch.stack(rows)

    return statistics
