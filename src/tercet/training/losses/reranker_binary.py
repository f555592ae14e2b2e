"""A reranker's binary cross-entropy: each pair is relevant or not, or in between."""

from __future__ import annotations

__all__ = ["RerankerBinary"]

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from tercet.errors import InputError
from tercet.scoring.blocks import wide
from tercet.training.losses import RERANKER_LOSSES, Known
from tercet.training.targets import LossValue, Targets


@RERANKER_LOSSES.register("reranker_binary")
@dataclass(frozen=True, slots=True, kw_only=True)
class RerankerBinary:
    """The mean of -label log sigmoid(logit) - (1 - label) log sigmoid(-logit); labels lie in [0, 1]."""

    uses: ClassVar[frozenset[Known]] = frozenset({"labels"})

    def __call__(self, logits: Tensor, targets: Targets) -> LossValue:
        """The loss of logits (pairs, 1), one label each."""
        if logits.ndim != 2 or logits.shape[1] != 1 or logits.shape[0] == 0:
            raise InputError(
                f"reranker_binary: logits are (pairs, 1), not {tuple(logits.shape)}. Give one passage and "
                "one label a query (group_size 1)."
            )
        labels = targets.require_labels("reranker_binary", len(logits))
        if bool(((labels < 0) | (labels > 1)).any()):
            raise InputError(
                f"reranker_binary: labels go from {float(labels.min()):g} to {float(labels.max()):g}; they "
                "must lie in [0, 1]. Divide them by their largest."
            )
        scores = logits[:, 0].to(wide(logits))
        value = functional.binary_cross_entropy_with_logits(scores, labels.to(scores.dtype))
        return LossValue(value, {"binary": value.detach()})
