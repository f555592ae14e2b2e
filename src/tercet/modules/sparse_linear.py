"""BGE-M3's lexical head: one weight a token, the largest over its repeats (Chen et al. 2024)."""

from __future__ import annotations

__all__ = ["SparseLinear"]

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.batch import Batch
from tercet.checkpoint.layout import ModuleSpec
from tercet.embeddings import SparseVectors
from tercet.modules import MODULES, Read, weight


class SparseLinear(nn.Module):
    """relu(linear(hidden)) of each token; special tokens dropped, of repeats the maximum kept."""

    def __init__(self, matrix: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, hidden: Tensor, batch: Batch, special_ids: Tensor, vocabulary: int) -> SparseVectors:
        """Lexical weights of each text, in memory proportional to the tokens.

        Args:
            hidden: (tokens, hidden) in any float dtype; only (tokens, 1) leaves its dtype at a time.
            special_ids: (specials,) int64, token ids that get no weight.
            vocabulary: number of rows of the embedding table.
        """
        weights = _scores(hidden, self.matrix, self.bias).relu()
        # A NaN is kept, so that the check for values that are not finite can see it.
        kept = ((weights != 0) & ~torch.isin(batch.token_ids, special_ids)).nonzero()[:, 0]
        keys = batch.token_ids[kept]
        texts = len(batch)
        if texts > 1:
            lengths = batch.cu_seqlens.diff().long()
            text = torch.repeat_interleave(torch.arange(texts, device=hidden.device), lengths)
            keys = text[kept] * vocabulary + keys
        keys, inverse = torch.unique(keys, return_inverse=True)
        largest = weights.new_zeros(len(keys)).scatter_reduce_(0, inverse, weights[kept], "amax")
        if texts == 1:
            offsets = torch.tensor([0, len(keys)], device=hidden.device)
            return SparseVectors(keys, largest, offsets, vocabulary)
        counts = torch.bincount(keys // vocabulary, minlength=texts)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return SparseVectors(keys % vocabulary, largest, offsets, vocabulary)


def _scores(hidden: Tensor, matrix: Tensor, bias: Tensor, block: int = 4096) -> Tensor:
    """(tokens,) scores in the head's dtype; a block of tokens at a time is cast to it."""
    if hidden.dtype == matrix.dtype:
        return functional.linear(hidden, matrix, bias)[:, 0]
    parts = [
        functional.linear(rows.to(matrix.dtype), matrix, bias)[:, 0] for rows in torch.split(hidden, block)
    ]
    return torch.cat(parts)


@MODULES.register("sparse_linear")
def sparse_linear(spec: ModuleSpec, width: int, read: Read) -> SparseLinear:
    """The lexical head in sparse_linear.pt."""
    return SparseLinear(weight(spec, "weight", (1, width), read), weight(spec, "bias", (1,), read))
