"""Texts whose values left the range of the planned dtype: found, and computed again in float32."""

from __future__ import annotations

__all__ = ["not_finite", "recomputed"]

import logging
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from tercet.batch import Batch
from tercet.checkpoint.layout import Checkpoint
from tercet.embedder.finishing import all_finite
from tercet.errors import NonFiniteError
from tercet.model import hidden_in_float32
from tercet.precision.dtype import DType
from tercet.precision.scheme import Scheme

logger = logging.getLogger(__name__)


def not_finite(hidden: Tensor, batch: Batch) -> list[int]:
    """The texts that have a value that is not finite."""
    if all_finite(hidden):
        return []
    rows = torch.isfinite(hidden).all(dim=1)
    return [i for i, part in enumerate(torch.split(rows, list(batch.lengths))) if not bool(part.all())]


def recomputed(
    hidden: Tensor,
    batch: Batch,
    bad: list[int],
    *,
    checkpoint: Checkpoint,
    scheme: Scheme,
    first: int,
    kind: str = "text",
) -> Tensor:
    """The hidden vectors with those of the texts `bad` computed again in float32.

    Args:
        hidden: (tokens, hidden) in the planned dtype.
        batch: its texts.
        bad: which of them, at least one.
        checkpoint: where the weights are read again, a layer at a time.
        scheme: the planned one.
        first: number of the batch's first text, for errors.
        kind: what a text of the batch is called in messages.

    Returns:
        (tokens, hidden) in float32.

    Raises:
        NonFiniteError: a value is not finite in float32 either.
    """
    starts = [0, *accumulate(batch.lengths)]
    if not scheme.is_plain:
        again = Batch.from_ids([batch.token_ids[starts[i] : starts[i + 1]].tolist() for i in bad])
        if batch.token_type_ids is not None:
            types = [batch.token_type_ids[starts[i] : starts[i + 1]] for i in bad]
            again = replace(again, token_type_ids=torch.cat(types))
        if batch.attended is not None:
            again = replace(again, attended=batch.attended[bad])
        exact = hidden_in_float32(checkpoint, again)
        still = not_finite(exact, again)
        if not still:
            bound = scheme.bounded_by
            how = f"left the range of {bound} (largest number {bound.max:g})"
            if bound is DType.FLOAT32:  # 8-bit numbers with scales leave no range of their own
                how = f"gave values that are not finite in {scheme.label}"
            logger.warning("%d %ss %s and were computed in float32.", len(bad), kind, how)
            # From here on in float32: what left the range of the planned dtype must not be cast back.
            hidden = hidden.to(torch.float32, copy=True)
            parts = torch.split(exact.to(hidden.device), list(again.lengths))
            for index, rows in zip(bad, parts, strict=True):
                hidden[starts[index] : starts[index + 1]] = rows
            return hidden
        bad = [bad[i] for i in still]
    raise NonFiniteError(
        f"{kind} {first + bad[0]} gives values that are not finite, in float32 too: the weights of "
        f"{checkpoint.folder} are damaged or were saved after an overflow. Fetch the model again."
    )
