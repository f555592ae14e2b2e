"""What the token vectors of a text go through to become its dense or its sparse vector."""

from __future__ import annotations

__all__ = ["SparseHead", "Way"]

from typing import TypeAlias

import torch
from torch import Tensor, nn

from tercet.batch import Batch
from tercet.embeddings import SparseVectors
from tercet.layers.norm import unit_rows
from tercet.modules.chain import DenseChain
from tercet.modules.sparse_auto_encoder import SparseAutoEncoder
from tercet.modules.sparse_linear import SparseLinear
from tercet.modules.splade_pooling import SpladePooling
from tercet.modules.token_weights import TokenWeights

SparseHead: TypeAlias = SparseLinear | SpladePooling | SparseAutoEncoder | TokenWeights


class Way(nn.Module):
    """The modules of all texts, or of those that take one route.

    Attributes:
        chain: token vectors -> one vector a text; None where sparse vectors are made of tokens directly.
        sparse: what makes the sparse vectors, a SparseAutoEncoder of what the chain gives; None without.
    """

    def __init__(self, chain: DenseChain | None, sparse: SparseHead | None) -> None:
        super().__init__()
        self.chain = chain
        self.sparse = sparse

    @property
    def outputs(self) -> tuple[str, ...]:
        """What it makes: "dense", "sparse" or both."""
        # What a SparseAutoEncoder takes is on its way to a sparse vector, no result.
        dense = self.chain is not None and not isinstance(self.sparse, SparseAutoEncoder)
        return (*(["dense"] if dense else []), *(["sparse"] if self.sparse is not None else []))

    @property
    def width(self) -> int:
        """Of the dense vectors; 0 where none are made."""
        return self.chain.width if self.chain is not None and "dense" in self.outputs else 0

    def encoded(
        self, hidden: Tensor, batch: Batch, dtype: torch.dtype, prompt_tokens: int, k: int | None
    ) -> SparseVectors | None:
        """The sparse vectors of a model whose only output they are, `k` weights at most; None of others."""
        if isinstance(self.sparse, SparseAutoEncoder) and self.chain is not None:
            vectors = self.chain(hidden, batch, dtype, prompt_tokens)
            found: SparseVectors = self.sparse(unit_rows(vectors) if self.chain.normalizes else vectors, k)
            return found
        if isinstance(self.sparse, TokenWeights):
            found = self.sparse(hidden, batch, k)
            return found
        if isinstance(self.sparse, SpladePooling):
            found = self.sparse(hidden, batch)
            return found if k is None else found.top(k)
        return None
