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
from tercet.layers.one_thread import ONE_THREAD


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
        ids, width = batch.token_ids, self.table.shape[1]
        if self.mapping is None and self.weights is None and self.table.dtype == self.dtype:
            return _picked(self.table, ids)
        if not ids.is_cpu:
            return self._weighted(ids).to(self.dtype)
        hidden = torch.empty(len(ids), width, dtype=self.dtype)
        step = max(1, ONE_THREAD // width)
        for first in range(0, len(ids), step):
            hidden[first : first + step] = self._weighted(ids[first : first + step])
        return hidden

    def _weighted(self, ids: Tensor) -> Tensor:
        """(tokens, width) in float32 or wider: rows by the mapping, times the weights of their tokens."""
        places = ids if self.mapping is None else self.mapping[ids].long()
        rows = _picked(self.table, places)
        # Whole numbers by their value.
        rows = rows.to(torch.float64 if rows.dtype == torch.float64 else torch.float32)
        # In float32 or wider, as both are stored: only the product is rounded to what is planned.
        return rows if self.weights is None else rows * self.weights[ids].unsqueeze(1)

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        """No layers."""
        return iter(())

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, width): the same."""
        return self.embed(batch)


def _picked(table: Tensor, places: Tensor) -> Tensor:
    """(tokens, width) of the table, as it is stored."""
    # As bytes: not every format of 8 bits can be picked from, and NumPy does not know all of 16.
    rows = table.view(torch.uint8)
    if not rows.is_cpu or not len(places):
        return rows.index_select(0, places).view(table.dtype)
    return torch.from_numpy(rows.numpy().take(places.numpy(), axis=0)).view(table.dtype)


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
