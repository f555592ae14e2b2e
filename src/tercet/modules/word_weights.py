"""WordWeights: each token's vector times a weight of its word, such as its idf."""

from __future__ import annotations

__all__ = ["WordWeights"]

import torch
from torch import Tensor, nn

from tercet.checkpoint.layout import ModuleSpec
from tercet.modules import MODULES, Read, Tokens


class WordWeights(nn.Module):
    """Vectors times weights; the weights' sum is what means divide by from here on, the prompt's included.

    The last weight is that of words that are not known; ids beyond the list take it, too.
    """

    def __init__(self, weights: Tensor, width: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights, requires_grad=False)
        self.out_width = width

    def forward(self, tokens: Tokens) -> Tokens:
        """(tokens, width) -> (tokens, width)."""
        known = tokens.batch.token_ids.clamp(max=len(self.weights) - 1)
        weights = self.weights[known].to(tokens.vectors.dtype)
        texts = torch.split(weights, list(tokens.batch.lengths)) if len(tokens.batch) else ()
        sums = torch.stack([text.sum() for text in texts]) if texts else weights
        return Tokens(tokens.vectors * weights[:, None], tokens.batch, sums)


@MODULES.register("word_weights")
def word_weights(spec: ModuleSpec, width: int, read: Read) -> WordWeights:
    """A WordWeights module: its weights stand in its settings, by token id."""
    weights = (*spec.config["weights"], spec.config["unknown"])
    return WordWeights(torch.tensor(weights, dtype=torch.float32), width)
