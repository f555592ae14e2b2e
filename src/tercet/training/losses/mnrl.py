"""sentence-transformers' MultipleNegativesRankingLoss and its cached form: InfoNCE on cosines, by a scale."""

from __future__ import annotations

__all__ = ["MultipleNegativesRanking"]

from dataclasses import dataclass
from typing import ClassVar

from tercet.training.losses import LOSSES, Known
from tercet.training.losses.info_nce import InfoNCE
from tercet.training.outputs import Outputs
from tercet.training.rows import SCORE_BYTES
from tercet.training.scores import Head
from tercet.training.settings import check_settings, limits
from tercet.training.targets import LossValue, Targets


@LOSSES.register("mnrl", "cached_mnrl")
@dataclass(frozen=True, slots=True, kw_only=True)
class MultipleNegativesRanking:
    """InfoNCE over cosines times `scale`: equal to sentence-transformers' loss from query to document.

    One class for both names: what is cached there, a batch larger than memory, is `GradCache` here, whatever
    the loss; and scores come some queries at a time.

    Attributes:
        head: what is compared; dense vectors are brought to unit length.
        scale: one over the temperature.
        score_bytes: most memory of a matrix of scores.
    """

    head: Head = "dense"
    scale: float = limits(20.0, above=0.0)
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
        same = InfoNCE(
            head=self.head, temperature=1 / self.scale, normalize=True, score_bytes=self.score_bytes
        )
        found = same(queries, passages, targets)
        return LossValue(
            found.value, {"mnrl" if name == "info_nce" else name: p for name, p in found.parts.items()}
        )
