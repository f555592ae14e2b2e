"""MarginMSE: a teacher's margin between positive and negative is to be met (Hofstätter et al. 2020)."""

from __future__ import annotations

__all__ = ["MarginMSE"]

from dataclasses import dataclass
from typing import ClassVar

from tercet.errors import InputError
from tercet.training.losses import LOSSES, Known
from tercet.training.outputs import Outputs
from tercet.training.scores import Head, group_scores, group_size, zero_texts
from tercet.training.settings import check_settings, limits
from tercet.training.targets import LossValue, Targets


@LOSSES.register("margin_mse")
@dataclass(frozen=True, slots=True, kw_only=True)
class MarginMSE:
    """The mean over negatives of (student's margin - teacher's margin)^2, of own passages alone.

    Attributes:
        head: what is compared.
        scale: the student's scores are multiplied by it; sentence-transformers has none, which is 1. A
            teacher with wide margins and a student of cosines need a larger one.
        normalize: dense vectors are brought to unit length first.
    """

    head: Head = "dense"
    scale: float = limits(1.0, above=0.0)
    normalize: bool = False
    uses: ClassVar[frozenset[Known]] = frozenset({"scores"})

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The one that it compares."""
        return (self.head,)

    def __call__(self, queries: Outputs, passages: Outputs, targets: Targets) -> LossValue:
        """The loss of a batch."""
        group = group_size(queries, passages)
        if group == 1:
            raise InputError(
                "margin_mse: group_size is 1, and a margin needs a positive and a negative. Give each "
                "query at least one negative with a score."
            )
        teacher = targets.require_scores("margin_mse", len(queries), group)
        student = group_scores(queries, passages, self.head, normalize=self.normalize) * self.scale
        margins = (student[:, :1] - student[:, 1:]) - (teacher[:, :1] - teacher[:, 1:])
        value = margins.square().mean()
        counts = zero_texts(queries, passages) if self.head == "sparse" else {}
        return LossValue(value, {"margin_mse": value.detach(), **counts})
