"""CoSENT: pairs in the order of their labels (Su 2022; Huang et al. 2024)."""

from __future__ import annotations

__all__ = ["CoSENT"]

from dataclasses import dataclass
from typing import ClassVar

import torch

from tercet.errors import InputError
from tercet.training.losses import LOSSES, Known
from tercet.training.outputs import Outputs
from tercet.training.scores import Head, group_scores, group_size, zero_texts
from tercet.training.settings import check_settings, limits
from tercet.training.targets import LossValue, Targets


@LOSSES.register("cosent")
@dataclass(frozen=True, slots=True, kw_only=True)
class CoSENT:
    """log(1 + the sum over pairs a, b with label a above label b of exp(scale (score b - score a))).

    Equal to sentence-transformers' CoSENTLoss. A batch whose labels are all equal orders nothing: its loss
    is 0, and it is counted as `skipped`.

    Attributes:
        head: what is compared; dense vectors are brought to unit length.
        scale: one over a temperature.
    """

    head: Head = "dense"
    scale: float = limits(20.0, above=0.0)
    uses: ClassVar[frozenset[Known]] = frozenset({"labels"})

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The one that it compares."""
        return (self.head,)

    def __call__(self, queries: Outputs, passages: Outputs, targets: Targets) -> LossValue:
        """The loss of a batch of pairs: as many passages as queries."""
        if group_size(queries, passages) != 1:
            raise InputError(
                f"cosent: it compares pairs, here {len(queries)} queries with {len(passages)} passages. "
                "Give one passage and one label a query (group_size 1)."
            )
        labels = targets.require_labels("cosent", len(queries))
        scores = group_scores(queries, passages, self.head, normalize=True)[:, 0] * self.scale
        labels, order = labels.sort()
        scores = scores[order]
        # Of each pair, the log of the sum of exp(-score) over all pairs of a higher label: a running sum from
        # the end, read where the next label begins. Linear, where all with all would be quadratic.
        above = torch.searchsorted(labels, labels, right=True)
        sums = torch.cat([(-scores.flip(0)).logcumsumexp(0).flip(0), scores.new_full((1,), -torch.inf)])
        ordered = above < len(labels)
        terms = scores[ordered] + sums[above[ordered]]
        value = torch.cat([scores.new_zeros(1), terms]).logsumexp(0) + 0 * scores.sum()
        counts = zero_texts(queries, passages) if self.head == "sparse" else {}
        return LossValue(value, {"cosent": value.detach(), "skipped": (~ordered.any()).long(), **counts})
