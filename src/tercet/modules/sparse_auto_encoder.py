"""SparseAutoEncoder: a dense vector as a few of many features (CSR, Wen et al. 2025)."""

from __future__ import annotations

__all__ = ["SparseAutoEncoder"]

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.checkpoint.layout import ModuleSpec
from tercet.embeddings import SparseVectors
from tercet.modules import MODULES, Read, weight
from tercet.precision.footprint import CSR_ROWS

# sentence-transformers' own, added to the standard deviation.
_EPSILON = 1e-5


class SparseAutoEncoder(nn.Module):
    """The k largest features of each text, as far as they are above zero.

    Args:
        weight: (features, width).
        bias: (features,) of the features.
        shift: (width,) taken from each vector.
        k: features a text has at most.
        standardize: whether each vector has mean 0 and (sample) standard deviation 1 first.
    """

    def __init__(self, weight: Tensor, bias: Tensor, shift: Tensor, *, k: int, standardize: bool) -> None:
        super().__init__()
        self.weight, self.bias, self.shift = (
            nn.Parameter(tensor, requires_grad=False) for tensor in (weight, bias, shift)
        )
        self.k = k
        self.standardize = standardize
        self.out_width = len(weight)

    def forward(self, vectors: Tensor, k: int | None = None) -> SparseVectors:
        """The features of each text.

        Args:
            vectors: (texts, width) in the module's dtype.
            k: instead of the module's own; more features than there are means all.
        """
        most = min(self.k if k is None else k, self.out_width)
        parts = [self._top(rows, most) for rows in torch.split(vectors, CSR_ROWS)]
        ids, values = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        # Not equal to zero, rather than above it: so a NaN is kept, and seen when results are checked.
        kept = values != 0
        counts = kept.sum(dim=1)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return SparseVectors(ids[kept], values[kept], offsets, self.out_width)

    def _top(self, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """(rows, k) features in ascending order, and their values, none below zero."""
        if self.standardize:
            rows = rows - rows.mean(dim=1, keepdim=True)
            deviation = torch.linalg.vector_norm(rows, dim=1, keepdim=True) / max(1, rows.shape[1] - 1) ** 0.5
            rows = rows / (deviation + _EPSILON)
        top = torch.topk(functional.linear(rows - self.shift, self.weight, self.bias), k, dim=1)
        ids, order = top.indices.sort(dim=1)
        return ids, top.values.gather(1, order).relu_()


@MODULES.register("sparse_auto_encoder")
def sparse_auto_encoder(spec: ModuleSpec, width: int, read: Read) -> SparseAutoEncoder:
    """A SparseAutoEncoder, without what only its training needs."""
    name = "encoder.weight" if "encoder.weight" in spec.tensors else "decoder.linear.weight"
    features = spec.config["hidden_dim"]
    return SparseAutoEncoder(
        weight(spec, name, (features, width), read),
        weight(spec, "latent_bias", (features,), read),
        weight(spec, "pre_bias", (width,), read),
        k=spec.config["k"],
        standardize=spec.config["normalize"],
    )
