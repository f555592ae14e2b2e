"""BGE-M3's late-interaction head: one vector a token (Khattab & Zaharia 2020; Chen et al. 2024)."""

from __future__ import annotations

__all__ = ["ColbertLinear"]

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.batch import Batch
from tercet.checkpoint.layout import ModuleSpec
from tercet.embeddings import MultiVectors
from tercet.modules import MODULES, Read, weight


class ColbertLinear(nn.Module):
    """linear(hidden) of each token but the first of a text: without <s>, with </s>."""

    def __init__(self, matrix: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.out_width = matrix.shape[0]

    def forward(
        self, hidden: Tensor, batch: Batch, *, dimensions: int | None = None, normalize: bool = True
    ) -> MultiVectors:
        """Vectors of each text's tokens, cut to `dimensions`, then of unit length."""
        starts = batch.cu_seqlens[:-1].long()
        kept = torch.ones(len(hidden), dtype=torch.bool, device=hidden.device)
        kept[starts] = False
        rows = hidden[kept].to(self.matrix.dtype)
        matrix, bias = self.matrix[:dimensions], self.bias[:dimensions]
        vectors = functional.linear(rows, matrix, bias)
        if normalize:
            vectors = functional.normalize(vectors, dim=-1)
        counts = batch.cu_seqlens.diff().long() - 1
        return MultiVectors(vectors, torch.cat([counts.new_zeros(1), counts.cumsum(0)]))


@MODULES.register("colbert_linear")
def colbert_linear(spec: ModuleSpec, width: int, read: Read) -> ColbertLinear:
    """The late-interaction head in colbert_linear.pt, of whatever width it has."""
    matrix = weight(spec, "weight", (None, width), read)
    return ColbertLinear(matrix, weight(spec, "bias", (len(matrix),), read))
