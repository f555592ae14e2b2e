"""InfoNCE: the positive told from the negatives by a softmax over scores (van den Oord et al. 2018)."""

from __future__ import annotations

__all__ = ["InfoNCE", "cross_entropy"]

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from tercet.training.losses import LOSSES, Known
from tercet.training.outputs import Outputs
from tercet.training.rows import SCORE_BYTES, Rows, alone, mean_over_queries
from tercet.training.scores import Head, zero_texts
from tercet.training.settings import check_settings, limits
from tercet.training.targets import LossValue, Targets


def cross_entropy(rows: Rows, scores: Tensor) -> Tensor:
    """(rows,), of the positive among all columns."""
    return functional.cross_entropy(scores, rows.first, reduction="none")


@LOSSES.register("info_nce")
@dataclass(frozen=True, slots=True, kw_only=True)
class InfoNCE:
    """The mean cross-entropy of each query's positive among its candidates, as FlagEmbedding has it.

    Candidates are the own passages alone, those of the batch, or of all processes, as `Targets` says.

    Attributes:
        head: what is compared.
        temperature: scores are divided by it; FlagEmbedding's default is 0.02.
        normalize: dense vectors are brought to unit length first.
        score_bytes: most memory of a matrix of scores.
    """

    head: Head = "dense"
    temperature: float = limits(0.02, above=0.0)
    normalize: bool = False
    score_bytes: int = limits(SCORE_BYTES, least=1)
    uses: ClassVar[frozenset[Known]] = frozenset()

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The one that it compares."""
        return (self.head,)

    def __call__(self, queries: Outputs, passages: Outputs, targets: Targets) -> LossValue:
        """The loss of a batch."""

        def compute(rows: Rows) -> Tensor:
            return cross_entropy(rows, rows.scores[self.head] / self.temperature)[:, None]

        [value] = mean_over_queries(
            compute,
            queries,
            passages,
            targets,
            self.heads,
            normalize=self.normalize,
            score_bytes=self.score_bytes,
        )
        counts = zero_texts(queries, passages) if self.head == "sparse" else {}
        return LossValue(value, {"info_nce": value.detach(), **alone(targets), **counts})
