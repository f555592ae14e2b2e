"""Static embeddings: a row of a table for each token, whatever stands beside it (StaticEmbedding, model2vec).

There is no layer behind the table: pooling makes the vector of a text of its rows. Token ids may be mapped to
fewer rows, and each token may have a weight of its own, as in model2vec's smaller vocabularies.
"""

from __future__ import annotations

__all__ = ["StaticEncoder"]

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tercet.batch import Batch
from tercet.checkpoint.body import UNLIMITED
from tercet.encoders import ENCODERS, Target
from tercet.layers.mixing import LayerMix


class StaticEncoder(nn.Module):
    """The table, as it is stored: of a mapped file, only the rows of tokens that come are read.

    Args:
        rows, width: sizes of the table.
        vocabulary: how many token ids there are.
        mapped: whether a token id stands for a row by `mapping`, not by itself.
        weighted: whether each token id has a weight.

    Attributes:
        dtype: of the rows that come out; set by whoever loads it.
    """

    mix: LayerMix | None = None

    def __init__(self, rows: int, width: int, vocabulary: int, *, mapped: bool, weighted: bool) -> None:
        super().__init__()
        self.dtype = torch.float32
        self.table = _parameter(rows, width)
        self.mapping = _parameter(vocabulary) if mapped else None
        self.weights = _parameter(vocabulary) if weighted else None

    @property
    def max_tokens(self) -> int:
        """A text may have any number of tokens."""
        return UNLIMITED

    def names(self) -> dict[str, Target]:
        """Checkpoint name -> where it goes."""
        rows, width = self.table.shape
        found = {"embedding.weight": Target("table", (rows, width), as_stored=True)}
        if self.mapping is not None:
            found["mapping"] = Target("mapping", tuple(self.mapping.shape), as_stored=True, below=rows)
        if self.weights is not None:
            found["weights"] = Target("weights", tuple(self.weights.shape), as_stored=True)
        return found

    def embed(self, batch: Batch) -> Tensor:
        """(tokens, width), a row for each token."""
        places = batch.token_ids if self.mapping is None else self.mapping[batch.token_ids].long()
        hidden = _rows(self.table, places)
        if self.weights is not None:
            # In float32 or wider, as both are stored: only the product is rounded to what is planned.
            hidden = hidden * self.weights[batch.token_ids].unsqueeze(1)
        return hidden.to(self.dtype)

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        """No layers."""
        return iter(())

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, width): the same."""
        return self.embed(batch)


def _rows(table: Tensor, places: Tensor) -> Tensor:
    """(tokens, width) of the table, in float32 or wider; whole numbers by their value."""
    wide = torch.float64 if table.dtype == torch.float64 else torch.float32
    if table.dtype.itemsize == 1:
        # Numbers of 8 bits are picked as bytes: indexing is not there for every such format.
        return table.view(torch.uint8)[places].view(table.dtype).to(wide)
    return table[places].to(wide)


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=torch.float32), requires_grad=False)


@ENCODERS.register("static")
def static(config: Mapping[str, Any], where: str, *, fused: bool = True) -> StaticEncoder:
    """A table by the sizes that `checkpoint.static_files` found in its file."""
    return StaticEncoder(
        config["table_rows"],
        config["hidden_size"],
        config["vocab_size"],
        mapped=config["mapped"],
        weighted=config["weighted"],
    )
