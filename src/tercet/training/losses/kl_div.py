"""A teacher's scores distilled: its softmax over a query's passages is the target (Hinton et al. 2015)."""

from __future__ import annotations

__all__ = ["KLDiv", "soft_cross_entropy"]

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from tercet.errors import InputError
from tercet.training.losses import LOSSES, Known
from tercet.training.losses.info_nce import cross_entropy
from tercet.training.outputs import Outputs
from tercet.training.rows import SCORE_BYTES, Rows, mean_over_queries
from tercet.training.scores import Head, group_size, zero_texts
from tercet.training.settings import check_settings, limits
from tercet.training.targets import LossValue, Targets


def soft_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """(rows,), of a distribution `teacher` (rows, columns) under the softmax of scores `student`.

    It is the Kullback-Leibler divergence plus the teacher's entropy, which has no gradient.
    """
    # A column that neither side may choose has scores of -inf, and 0 times that is no number.
    return -(teacher * torch.log_softmax(student, dim=-1).masked_fill(student == -torch.inf, 0)).sum(-1)


def teacher_of(loss: str, targets: Targets, queries: int, group: int) -> Targets:
    """The same targets, once their scores were found to fit and to be of more than one passage a query."""
    if group == 1:
        raise InputError(
            f"{loss}: group_size is 1, and a softmax over one passage is 1 whatever the teacher says. Give "
            "each query at least one negative with a score."
        )
    return replace(targets, scores=targets.require_scores(loss, queries, group))


@LOSSES.register("kl_div")
@dataclass(frozen=True, slots=True, kw_only=True)
class KLDiv:
    """Soft cross-entropy over the own passages and the hard one over all candidates, as FlagEmbedding has it.

    Attributes:
        head: what is compared.
        temperature: the student's scores are divided by it.
        teacher_temperature: the teacher's; FlagEmbedding has none, which is 1.
        cross_entropy: whether InfoNCE over all candidates is added, as FlagEmbedding does. Without it and at
            temperatures of 1, gradients are those of sentence-transformers' DistillKLDivLoss.
        normalize: dense vectors are brought to unit length first.
        score_bytes: most memory of a matrix of scores.
    """

    head: Head = "dense"
    temperature: float = limits(0.02, above=0.0)
    teacher_temperature: float = limits(1.0, above=0.0)
    cross_entropy: bool = True
    normalize: bool = False
    score_bytes: int = limits(SCORE_BYTES, least=1)
    uses: ClassVar[frozenset[Known]] = frozenset({"scores"})

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The one that it compares."""
        return (self.head,)

    def __call__(self, queries: Outputs, passages: Outputs, targets: Targets) -> LossValue:
        """The loss of a batch."""
        checked = teacher_of("kl_div", targets, len(queries), group_size(queries, passages))

        def compute(rows: Rows) -> Tensor:
            assert rows.teacher is not None
            scores = rows.scores[self.head] / self.temperature
            teacher = torch.softmax(rows.teacher / self.teacher_temperature, dim=-1)
            terms = [soft_cross_entropy(rows.own(scores), teacher)]
            if self.cross_entropy:
                terms.append(cross_entropy(rows, scores))
            return torch.stack(terms, dim=1)

        means = mean_over_queries(
            compute,
            queries,
            passages,
            checked,
            self.heads,
            normalize=self.normalize,
            score_bytes=self.score_bytes,
        )
        named = dict(zip(("kl_div", "cross_entropy"), means.detach(), strict=False))
        counts = zero_texts(queries, passages) if self.head == "sparse" else {}
        return LossValue(means.sum(), {**named, **counts})
