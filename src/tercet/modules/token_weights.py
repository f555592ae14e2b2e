"""SparseStaticEmbedding: a weight for each token that a text has (inference-free SPLADE's queries)."""

from __future__ import annotations

__all__ = ["TokenWeights"]

import torch
from torch import Tensor, nn

from tercet.batch import Batch
from tercet.checkpoint.layout import ModuleSpec
from tercet.embeddings import SparseVectors
from tercet.modules import MODULES, Read, weight


class TokenWeights(nn.Module):
    """The weight of each token of a text, however often it occurs (Geng et al. 2024).

    Args:
        weights: (vocabulary,) in the heads' dtype, of either sign; a token of weight zero has no entry.
    """

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights, requires_grad=False)

    @property
    def vocabulary(self) -> int:
        """Columns of the sparse vectors."""
        return len(self.weights)

    def forward(self, hidden: Tensor, batch: Batch, most: int | None = None) -> SparseVectors:
        """The weights, in the order of the token ids.

        Args:
            hidden: (tokens, 1), of which nothing is taken.
            batch: where each text lies, on the same device.
            most: so many of each text, those farthest from zero; None for all.
        """
        texts = len(batch)
        lengths = batch.cu_seqlens.diff().long()
        numbers = torch.arange(texts, device=hidden.device)
        text = torch.repeat_interleave(numbers, lengths, output_size=len(batch.token_ids))
        keys = torch.unique(text * self.vocabulary + batch.token_ids)
        weights = self.weights[keys % self.vocabulary]
        kept = weights != 0
        keys, weights = keys[kept], weights[kept]
        counts = torch.bincount(keys // self.vocabulary, minlength=texts)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        ids = keys % self.vocabulary
        if most is None:
            return SparseVectors(ids, weights, offsets, self.vocabulary)
        top = SparseVectors(ids, weights.abs(), offsets, self.vocabulary).top(most)
        return SparseVectors(top.token_ids, self.weights[top.token_ids], top.offsets, self.vocabulary)


@MODULES.register("token_weights")
def token_weights(spec: ModuleSpec, width: int, read: Read) -> TokenWeights:
    """The weights of a SparseStaticEmbedding."""
    return TokenWeights(weight(spec, "weight", (None,), read))
