"""BGE-M3's unified loss of all three heads, with self-distillation (Chen et al. 2024)."""

from __future__ import annotations

__all__ = ["M3", "ensemble", "unified_rows"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tercet.training.losses import LOSSES, Known
from tercet.training.losses.info_nce import cross_entropy
from tercet.training.losses.kl_div import soft_cross_entropy, teacher_of
from tercet.training.losses.m3_kd import ranked_cross_entropy
from tercet.training.outputs import Outputs
from tercet.training.rows import SCORE_BYTES, Rows, alone, mean_over_queries
from tercet.training.scores import Head, group_size, zero_texts
from tercet.training.settings import check_settings, limits
from tercet.training.targets import LossValue, Targets

Distillation = Literal["kl_div", "m3_kd"]

_HEADS: tuple[Head, ...] = ("dense", "sparse", "multivector")
_TERMS = ("dense", "ensemble", "sparse", "multivector")
_DISTILLED = ("dense_distilled", "sparse_distilled", "multivector_distilled")


def ensemble(scores: Mapping[Head, Tensor]) -> Tensor:
    """dense + 0.3 sparse + multivector."""
    return scores["dense"] + 0.3 * scores["sparse"] + scores["multivector"]


def unified_rows(rows: Rows, *, distillation: Distillation, self_distill: bool) -> Tensor:
    """(rows, terms): losses of each head and of the ensemble; then those of heads under the ensemble's
    softmax.

    Args:
        rows: scores of all three heads, divided by the temperature.
        distillation: how a teacher's scores are learnt, if there are any.
        self_distill: whether the last three terms are wanted.
    """
    together = ensemble(rows.scores)
    dense, sparse, late = (rows.scores[head] for head in _HEADS)
    terms = [_loss(rows, scores, distillation) for scores in (dense, together, sparse, late)]
    if self_distill:
        # The scored columns, all of them; the ensemble teaches and does not learn here.
        teacher = torch.softmax(together.detach(), dim=-1)
        terms += [soft_cross_entropy(scores, teacher) for scores in (dense, sparse, late)]
    return torch.stack(terms, dim=1)


def _loss(rows: Rows, scores: Tensor, distillation: Distillation) -> Tensor:
    if rows.teacher is None:
        return cross_entropy(rows, scores)
    teacher = torch.softmax(rows.teacher, dim=-1)
    if distillation == "m3_kd":
        return ranked_cross_entropy(rows, scores, teacher)
    return soft_cross_entropy(rows.own(scores), teacher) + cross_entropy(rows, scores)


def _total(means: Tensor) -> Tensor:
    loss: Tensor = (means[0] + means[1] + 0.1 * means[2] + means[3]) / 4
    if len(means) > len(_TERMS):
        dense, sparse, late = means[len(_TERMS) :]
        loss = (loss + (dense + 0.1 * sparse + late) / 3) / 2
    return loss


@LOSSES.register("m3")
@dataclass(frozen=True, slots=True, kw_only=True)
class M3:
    """(dense + ensemble + 0.1 sparse + multivector) / 4; the ensemble's score is dense + 0.3 sparse +
    multivector.

    With self-distillation: half of the sum of that and of (dense + 0.1 sparse + multivector) / 3, in which
    each head learns the ensemble's softmax. Terms learn a teacher's scores where the batch has them.
    Differs from FlagEmbedding's in one thing: across devices all heads meet the others' passages there, not
    dense alone.

    Attributes:
        temperature: all scores are divided by it before anything else.
        distillation: how terms learn a teacher's scores: as `kl_div` or as `m3_kd`.
        self_distill: whether heads learn from the ensemble.
        self_distill_start_step: only after this step; -1 is from the first.
        normalize: dense vectors are brought to unit length first.
        score_bytes: most memory of all matrices of scores.
    """

    temperature: float = limits(0.02, above=0.0)
    distillation: Distillation = "m3_kd"
    self_distill: bool = False
    self_distill_start_step: int = limits(-1, least=-1)
    normalize: bool = False
    score_bytes: int = limits(SCORE_BYTES, least=1)
    uses: ClassVar[frozenset[Known]] = frozenset({"scores"})

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def heads(self) -> tuple[Head, ...]:
        """All three."""
        return _HEADS

    def __call__(self, queries: Outputs, passages: Outputs, targets: Targets) -> LossValue:
        """The loss of a batch."""
        if targets.scores is not None:
            targets = teacher_of("m3", targets, len(queries), group_size(queries, passages))
        distill = self.self_distill and targets.step > self.self_distill_start_step

        def compute(rows: Rows) -> Tensor:
            scaled = {head: scores / self.temperature for head, scores in rows.scores.items()}
            scored = Rows(scaled, rows.first, rows.group, rows.teacher)
            return unified_rows(scored, distillation=self.distillation, self_distill=distill)

        means = mean_over_queries(
            compute,
            queries,
            passages,
            targets,
            _HEADS,
            normalize=self.normalize,
            score_bytes=self.score_bytes,
        )
        named = dict(zip((*_TERMS, *_DISTILLED), means.detach(), strict=False))
        counts = {**alone(targets), **zero_texts(queries, passages)}
        return LossValue(_total(means), {**named, **counts})
