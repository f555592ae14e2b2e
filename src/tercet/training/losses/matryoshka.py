"""Matryoshka: a loss at several widths, so that cut vectors stay good (Kusupati et al. 2022)."""

from __future__ import annotations

__all__ = ["Matryoshka"]

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor
from torch.nn import functional

from tercet.errors import InputError
from tercet.scoring.blocks import wide
from tercet.training.losses import LOSSES, Known, Loss
from tercet.training.outputs import Outputs
from tercet.training.scores import Head
from tercet.training.targets import LossValue, Targets


@LOSSES.register("matryoshka")
@dataclass(frozen=True, slots=True, kw_only=True)
class Matryoshka:
    """The weighted sum of a loss of dense vectors cut to each width.

    Attributes:
        loss: of dense vectors alone.
        dims: widths, each at most the model's.
        weights: one a width; None for the mean, which is FlagEmbedding's. All 1 is sentence-transformers'.
        normalize: cut vectors are brought to unit length again.
    """

    loss: Loss
    dims: tuple[int, ...]
    weights: tuple[float, ...] | None = None
    normalize: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(self.dims))
        if self.weights is not None:
            object.__setattr__(self, "weights", tuple(self.weights))
        if not self.dims or any(not isinstance(dim, int) or dim < 1 for dim in self.dims):
            raise InputError(f"dims are {list(self.dims)}; give at least one width of 1 or more.")
        if len(set(self.dims)) < len(self.dims):
            raise InputError(f"dims are {list(self.dims)}; give each width once.")
        weights = self.weights
        if weights is not None and (
            len(weights) != len(self.dims) or any(not isfinite(weight) or weight < 0 for weight in weights)
        ):
            raise InputError(
                f"weights are {list(weights)} for {len(self.dims)} dims; give one of 0 or more for each."
            )
        if self.loss.heads != ("dense",):
            raise InputError(
                f"The inner loss compares {' and '.join(self.loss.heads)}; widths are those of dense "
                "vectors. Give a loss with head dense."
            )

    @property
    def uses(self) -> frozenset[Known]:
        """What the inner loss does."""
        return self.loss.uses

    @property
    def heads(self) -> tuple[Head, ...]:
        """Dense alone."""
        return ("dense",)

    def __call__(self, queries: Outputs, passages: Outputs, targets: Targets) -> LossValue:
        """The loss of a batch; parts are named by their widths."""
        weights = self.weights or (1 / len(self.dims),) * len(self.dims)
        total, parts = torch.zeros((), device=queries.tensors()[0].device), {}
        for dim, weight in zip(self.dims, weights, strict=True):
            found = self.loss(self._cut(queries, dim), self._cut(passages, dim), targets)
            total = total + weight * found.value
            parts.update({f"{name}@{dim}": part for name, part in found.parts.items()})
        return LossValue(total, parts)

    def _cut(self, outputs: Outputs, dim: int) -> Outputs:
        dense = outputs.dense
        if dense is None or dense.shape[1] < dim:
            width = "none" if dense is None else dense.shape[1]
            raise InputError(
                f"matryoshka: dims has {dim}, the dense vectors' width is {width}. Leave it out."
            )
        cut: Tensor = dense[:, :dim].to(wide(dense))
        return Outputs(dense=functional.normalize(cut, dim=-1) if self.normalize else cut)
