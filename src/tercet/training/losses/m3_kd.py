"""FlagEmbedding's m3_kd_loss: each own passage told from all not above it, weighted by the teacher."""

from __future__ import annotations

__all__ = ["M3KD", "ranked_cross_entropy"]

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tercet.training.losses import LOSSES, Known
from tercet.training.losses.kl_div import teacher_of
from tercet.training.outputs import Outputs
from tercet.training.rows import SCORE_BYTES, Rows, mean_over_queries
from tercet.training.scores import Head, group_size, zero_texts
from tercet.training.settings import check_settings, limits
from tercet.training.targets import LossValue, Targets


def ranked_cross_entropy(rows: Rows, scores: Tensor, teacher: Tensor) -> Tensor:
    """(rows,), the sum over own passages i of teacher_i times i's cross-entropy without those before i.

    The sums of exponentials come from one pass over the other columns and a running one over the own, so
    memory is that of two matrices of scores whatever the group.
    """
    own = rows.own(scores)
    # log of the sum of exponentials of own passages i and after
    left = own.flip(1).logcumsumexp(1).flip(1)
    if scores.shape[1] > rows.group:
        # The lowest number in the place of -inf: of nothing but that, the gradient would be no number.
        lowest = torch.finfo(scores.dtype).min
        others = scores.scatter(1, rows.columns, lowest).clamp(min=lowest).logsumexp(1, keepdim=True)
        left = torch.logaddexp(left, others)
    return (teacher * (left - own)).sum(-1)


@LOSSES.register("m3_kd")
@dataclass(frozen=True, slots=True, kw_only=True)
class M3KD:
    """The mean over queries of `ranked_cross_entropy`; no other cross-entropy is added.

    Attributes:
        head: what is compared.
        temperature: the student's scores are divided by it.
        teacher_temperature: the teacher's; FlagEmbedding has none, which is 1.
        normalize: dense vectors are brought to unit length first.
        score_bytes: most memory of a matrix of scores.
    """

    head: Head = "dense"
    temperature: float = limits(0.02, above=0.0)
    teacher_temperature: float = limits(1.0, above=0.0)
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
        checked = teacher_of("m3_kd", targets, len(queries), group_size(queries, passages))

        def compute(rows: Rows) -> Tensor:
            assert rows.teacher is not None
            teacher = torch.softmax(rows.teacher / self.teacher_temperature, dim=-1)
            scores = rows.scores[self.head] / self.temperature
            return ranked_cross_entropy(rows, scores, teacher)[:, None]

        [value] = mean_over_queries(
            compute,
            queries,
            passages,
            checked,
            self.heads,
            normalize=self.normalize,
            score_bytes=self.score_bytes,
        )
        counts = zero_texts(queries, passages) if self.head == "sparse" else {}
        return LossValue(value, {"m3_kd": value.detach(), **counts})
