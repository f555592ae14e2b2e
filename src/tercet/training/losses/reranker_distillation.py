"""A reranker taught by a stronger one: the teacher's softmax over a group as the target."""

from __future__ import annotations

__all__ = ["RerankerDistillation"]

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from tercet.training.losses import RERANKER_LOSSES, Known
from tercet.training.losses.kl_div import soft_cross_entropy
from tercet.training.losses.reranker_cross_entropy import check_logits
from tercet.training.settings import check_settings, limits
from tercet.training.targets import LossValue, Targets


@RERANKER_LOSSES.register("reranker_distillation")
@dataclass(frozen=True, slots=True, kw_only=True)
class RerankerDistillation:
    """Soft cross-entropy under the teacher's softmax, and the hard one, as FlagEmbedding adds them.

    Attributes:
        temperature: the student's logits are divided by it.
        teacher_temperature: the teacher's scores; FlagEmbedding has none, which is 1.
        cross_entropy: whether the hard one is added.
    """

    temperature: float = limits(1.0, above=0.0)
    teacher_temperature: float = limits(1.0, above=0.0)
    cross_entropy: bool = True
    uses: ClassVar[frozenset[Known]] = frozenset({"scores"})

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, logits: Tensor, targets: Targets) -> LossValue:
        """The loss of logits (queries, group)."""
        scores = check_logits("reranker_distillation", logits) / self.temperature
        given = targets.require_scores("reranker_distillation", *scores.shape)
        teacher = torch.softmax(given / self.teacher_temperature, dim=-1)
        value = soft = soft_cross_entropy(scores, teacher).mean()
        parts = {"distillation": soft.detach()}
        if self.cross_entropy:
            hard = functional.cross_entropy(scores, scores.new_zeros(len(scores)).long())
            value, parts["cross_entropy"] = soft + hard, hard.detach()
        return LossValue(value, parts)
