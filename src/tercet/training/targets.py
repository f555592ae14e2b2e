"""What a loss is told beside the outputs, and what it gives back."""

from __future__ import annotations

__all__ = ["LossValue", "Targets"]

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tercet.errors import InputError, NonFiniteError


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What is known of a batch.

    Attributes:
        scores: (queries, group) a teacher's score of each query with its own passages, or None.
        labels: (queries,) how similar each pair is, or whether a passage is relevant, or None.
        in_batch: the passages of other queries are negatives too.
        across_devices: those of other processes as well; only with `in_batch`.
        allowed: (queries, passages) bool, which passages of this process a query is told from where
            `in_batch`: one that answers it, too, is not its negative. None for all.
        step: how many steps were taken before; counted from 0.
    """

    scores: Tensor | None = None
    labels: Tensor | None = None
    in_batch: bool = True
    across_devices: bool = False
    allowed: Tensor | None = None
    step: int = 0

    def to(self, device: torch.device) -> Targets:
        """The same on another device."""
        return replace(
            self,
            scores=None if self.scores is None else self.scores.to(device),
            labels=None if self.labels is None else self.labels.to(device),
            allowed=None if self.allowed is None else self.allowed.to(device),
        )

    def require_scores(self, loss: str, queries: int, group: int) -> Tensor:
        """(queries, group) the teacher's scores, in float32 and without a gradient, or an InputError."""
        if self.scores is None:
            raise InputError(
                f"{loss} learns from a teacher's scores, and this batch has none. Write them with tercet "
                "distill-scores, or take a loss without a teacher, such as info_nce."
            )
        if self.scores.shape != (queries, group):
            raise InputError(
                f"{loss}: a teacher's scores are (queries, group), here {(queries, group)}, not "
                f"{tuple(self.scores.shape)}. Give one score for each passage, the positive's first."
            )
        return _finite(loss, "teacher's scores", self.scores)

    def require_labels(self, loss: str, pairs: int) -> Tensor:
        """(pairs,) the labels, in float32, or an InputError."""
        if self.labels is None:
            raise InputError(
                f"{loss} learns from labels, and this batch has none. Add a label to each pair, or take a "
                "loss without, such as info_nce."
            )
        if self.labels.shape != (pairs,):
            raise InputError(
                f"{loss}: labels are one number a pair, here {(pairs,)}, not {tuple(self.labels.shape)}."
            )
        return _finite(loss, "labels", self.labels)


@dataclass(frozen=True, slots=True)
class LossValue:
    """A loss and what it is made of.

    Attributes:
        value: () with its gradient.
        parts: name -> () without: terms of the loss, and counts of what could not be learnt from.

    Raises:
        NonFiniteError: when made, if the value is not finite; the message names the terms.
    """

    value: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not bool(torch.isfinite(self.value)):
            terms = ", ".join(f"{name} {float(part):g}" for name, part in self.parts.items())
            raise NonFiniteError(
                f"The loss is {float(self.value.detach()):g} ({terms or 'one term'}). Lower the learning "
                "rate, raise the temperature, or train in float32; no step was taken with it."
            )


def _finite(loss: str, what: str, values: Tensor) -> Tensor:
    values = values.detach().to(torch.float64 if values.dtype == torch.float64 else torch.float32)
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise InputError(
            f"{loss}: {bad} of the {what} are not finite. Leave these examples out, or score them anew."
        )
    return values
