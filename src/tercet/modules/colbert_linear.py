"""BGE-M3's late-interaction head: one vector a token (Khattab & Zaharia 2020; Chen et al. 2024)."""

from __future__ import annotations

__all__ = ["ColbertLinear"]

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.batch import Batch
from tercet.checkpoint.layout import ModuleSpec
from tercet.embeddings import MultiVectors
from tercet.layers.norm import unit_rows
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
        rows = _without_first(hidden, batch).to(self.matrix.dtype)
        matrix, bias = self.matrix[:dimensions], self.bias[:dimensions]
        vectors = functional.linear(rows, matrix, bias)
        if normalize:
            vectors = unit_rows(vectors)
        # Each text before has lost one token.
        offsets = batch.cu_seqlens - torch.arange(len(batch) + 1, device=hidden.device)
        return MultiVectors(vectors, offsets)


def _without_first(hidden: Tensor, batch: Batch) -> Tensor:
    """The rows of all tokens but each text's first."""
    if len(batch) == 1:
        return hidden[1:]
    kept = torch.ones(len(hidden), dtype=torch.bool, device=hidden.device)
    kept[batch.cu_seqlens[:-1].long()] = False
    return hidden[kept]


@MODULES.register("colbert_linear")
def colbert_linear(spec: ModuleSpec, width: int, read: Read) -> ColbertLinear:
    """The late-interaction head in colbert_linear.pt, of whatever width it has."""
    matrix = weight(spec, "weight", (None, width), read)
    return ColbertLinear(matrix, weight(spec, "bias", (len(matrix),), read))
