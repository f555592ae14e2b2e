"""A reranker's cross-entropy of the positive among its group, as FlagEmbedding has it."""

from __future__ import annotations

__all__ = ["RerankerCrossEntropy", "check_logits"]

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from tercet.errors import InputError
from tercet.scoring.blocks import wide
from tercet.training.losses import RERANKER_LOSSES, Known
from tercet.training.settings import check_settings, limits
from tercet.training.targets import LossValue, Targets


def check_logits(loss: str, logits: Tensor) -> Tensor:
    """(queries, group) in float32 or float64, of at least one query and two passages, or an InputError."""
    if logits.ndim != 2 or logits.shape[0] == 0:
        raise InputError(f"{loss}: logits are (queries, group), not {tuple(logits.shape)}.")
    if logits.shape[1] < 2:
        raise InputError(
            f"{loss}: group_size is {logits.shape[1]}, which leaves a positive nothing to be told from. "
            "Give each query at least one negative (tercet mine finds them)."
        )
    return logits.to(wide(logits))


@RERANKER_LOSSES.register("reranker_cross_entropy")
@dataclass(frozen=True, slots=True, kw_only=True)
class RerankerCrossEntropy:
    """The mean over queries of the cross-entropy of the first of each group.

    Attributes:
        temperature: logits are divided by it.
    """

    temperature: float = limits(1.0, above=0.0)
    uses: ClassVar[frozenset[Known]] = frozenset()

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, logits: Tensor, targets: Targets) -> LossValue:
        """The loss of logits (queries, group)."""
        scores = check_logits("reranker_cross_entropy", logits) / self.temperature
        first = scores.new_zeros(len(scores)).long()
        value = functional.cross_entropy(scores, first)
        return LossValue(value, {"cross_entropy": value.detach()})
