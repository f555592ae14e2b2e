"""FLOPS: sparse vectors kept short by the mean weight that each token has over texts (Paria et al. 2020)."""

from __future__ import annotations

__all__ = ["Flops", "flops"]

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tercet.embeddings import SparseVectors
from tercet.errors import InputError
from tercet.training.losses import LOSSES, Known
from tercet.training.outputs import Outputs
from tercet.training.scores import Head, zero_texts
from tercet.training.settings import check_settings, limits
from tercet.training.targets import LossValue, Targets


def flops(vectors: SparseVectors, *, threshold: int | None = None) -> Tensor:
    """The sum over token ids of (the mean over texts of their weight)^2; memory is that of the entries.

    Args:
        vectors: of at least one text.
        threshold: texts with at most this many weights above 0 count as all zero.
    """
    if len(vectors) == 0:
        raise InputError("flops: a mean over no texts; leave the batch out.")
    weights = vectors.weights
    if threshold is not None:
        used = torch.zeros(len(vectors), dtype=torch.int64, device=weights.device)
        used = used.index_add(0, vectors.rows, (weights > 0).long())
        weights = weights * (used > threshold)[vectors.rows]
    ids, place = torch.unique(vectors.token_ids, return_inverse=True)
    means = weights.new_zeros(len(ids)).index_add(0, place, weights) / len(vectors)
    return means.square().sum()


@LOSSES.register("flops")
@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """query_weight x flops(queries) + passage_weight x flops(passages), to be added to a loss that ranks.

    Added to a loss that ranks, it makes sentence-transformers'
    SpladeLoss of it.

    Attributes:
        query_weight, passage_weight: factors of both sides.
        threshold: see `flops`; None for all texts.
    """

    query_weight: float = limits(5e-5, least=0.0)
    passage_weight: float = limits(3e-5, least=0.0)
    threshold: int | None = limits(None, least=0)
    uses: ClassVar[frozenset[Known]] = frozenset()

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def heads(self) -> tuple[Head, ...]:
        """Sparse alone."""
        return ("sparse",)

    def __call__(self, queries: Outputs, passages: Outputs, targets: Targets) -> LossValue:
        """The penalty of a batch."""
        if queries.sparse is None or passages.sparse is None:
            raise InputError("flops: the outputs have no sparse vectors. Give the model a sparse head.")
        mine = flops(queries.sparse, threshold=self.threshold)
        theirs = flops(passages.sparse, threshold=self.threshold)
        return LossValue(
            self.query_weight * mine + self.passage_weight * theirs,
            {
                "query_flops": mine.detach(),
                "passage_flops": theirs.detach(),
                **zero_texts(queries, passages),
            },
        )
