"""No encoder at all: that a token is there is all that SparseStaticEmbedding wants to know of it."""

from __future__ import annotations

__all__ = ["TokenPresence"]

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tercet.batch import Batch
from tercet.checkpoint.body import UNLIMITED
from tercet.encoders import ENCODERS, Target
from tercet.layers.mixing import LayerMix


class TokenPresence(nn.Module):
    """A one for each token, which every number format holds exactly; no weights.

    Attributes:
        dtype: of the ones; set by whoever loads it.
    """

    mix: LayerMix | None = None

    def __init__(self) -> None:
        super().__init__()
        self.dtype = torch.float32

    @property
    def max_tokens(self) -> int:
        """A text may have any number of tokens."""
        return UNLIMITED

    def names(self) -> dict[str, Target]:
        """Nothing is read."""
        return {}

    def embed(self, batch: Batch) -> Tensor:
        """(tokens, 1) ones."""
        ids = batch.token_ids
        return torch.ones(len(ids), 1, dtype=self.dtype, device=ids.device)

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        """No layers."""
        return iter(())

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, 1): the same."""
        return self.embed(batch)


@ENCODERS.register("token-presence")
def token_presence(config: Mapping[str, Any], where: str, *, fused: bool = True) -> TokenPresence:
    """What stands before a SparseStaticEmbedding."""
    return TokenPresence()
