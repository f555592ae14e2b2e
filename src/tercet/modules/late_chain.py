"""What makes the vectors of late interaction: modules over the tokens of a text that are kept."""

from __future__ import annotations

__all__ = ["LateChain", "late_chain"]

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.batch import Batch
from tercet.checkpoint.late_modules import LATE_MASK, TOKEN_POOLING
from tercet.checkpoint.layout import ModuleSpec
from tercet.embeddings import MultiVectors
from tercet.layers.norm import unit_rows
from tercet.modules.normalize import Normalize
from tercet.quantization import pool_rows


class LateChain(nn.Module):
    """Packed token vectors -> the vectors of those tokens that are scored.

    Attributes:
        layers: modules over each vector, but for a last Normalize.
        normalizes: whether the last module is a Normalize; it belongs behind the cut to fewer dimensions.
        pooling: settings of a HierarchicalTokenPooling, which comes last; None without.
        out_width: of the vectors.
    """

    def __init__(
        self,
        layers: list[nn.Module],
        width: int,
        dtype: torch.dtype,
        pooling: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.normalizes = bool(layers) and isinstance(layers[-1], Normalize)
        self.layers = nn.ModuleList(layers[:-1] if self.normalizes else layers)
        self.pooling = pooling
        self.out_width = width
        self.dtype = dtype

    def forward(
        self,
        hidden: Tensor,
        batch: Batch,
        *,
        dimensions: int | None = None,
        normalize: bool | None = None,
        dropped: tuple[int, ...] = (),
        kept: tuple[int, ...] | None = None,
        pools: bool = False,
    ) -> MultiVectors:
        """Vectors of each text's tokens, cut to `dimensions`, then of unit length if that is asked or usual.

        Args:
            hidden: (tokens, hidden).
            batch: its texts.
            dimensions: first so many columns; None for all.
            normalize: unit length or not; None for what the checkpoint says, and yes for a cut.
            dropped: ids of tokens without a vector.
            kept: ids of the only tokens with one; None for all.
            pools: whether the chain's pooling, if it has one, is for these texts.
        """
        offsets = batch.cu_seqlens.long()
        if dropped or kept is not None:
            stays = torch.ones(len(hidden), dtype=torch.bool, device=hidden.device)
            if kept is not None:
                stays &= _among(batch.token_ids, kept)
            if dropped:
                stays &= ~_among(batch.token_ids, dropped)
            hidden = hidden[stays]
            offsets = functional.pad(stays.cumsum(0), (1, 0))[offsets]
        vectors = hidden.to(self.dtype)
        for layer in self.layers:
            vectors = layer(vectors)
        shortened = dimensions is not None and dimensions < self.out_width
        if shortened:
            vectors = vectors[:, :dimensions]
        unit = self.normalizes or shortened if normalize is None else normalize
        found = MultiVectors(unit_rows(vectors) if unit else vectors, offsets)
        if self.pooling is None or not pools:
            return found
        return _pooled(found, self.pooling, self.pooling["normalize"] if normalize is None else normalize)


def _pooled(found: MultiVectors, settings: Mapping[str, Any], normalize: bool) -> MultiVectors:
    """Fewer vectors of each text; one that is not finite stays whole, to be seen and computed again."""
    factor, protected = settings["pool_factor"], settings["protected"]
    parts = [
        pool_rows(rows.vectors, factor, protected=protected, normalize=normalize)
        if bool(rows.vectors.isfinite().all())
        else rows.vectors
        for rows in found
    ]
    vectors = torch.cat(parts) if parts else found.vectors
    lengths = torch.tensor([0, *map(len, parts)], device=found.offsets.device)
    return MultiVectors(unit_rows(vectors) if normalize else vectors, lengths.cumsum(0))


def _among(token_ids: Tensor, ids: tuple[int, ...]) -> Tensor:
    return torch.isin(token_ids, torch.tensor(ids, dtype=torch.int64, device=token_ids.device))


def late_chain(
    specs: Iterable[ModuleSpec], width: int, build: Callable[[ModuleSpec, int], nn.Module], dtype: torch.dtype
) -> LateChain:
    """The chain that a checkpoint describes; its mask is the caller's to hand over with each batch.

    Args:
        specs: the modules in their order.
        width: of the token vectors that the encoder gives.
        build: makes a module for vectors of a width.
        dtype: what the vectors are computed in.
    """
    layers: list[nn.Module] = []
    pooling = None
    for spec in specs:
        if spec.kind == TOKEN_POOLING:
            pooling = spec.config
        elif spec.kind != LATE_MASK:
            layers.append(module := build(spec, width))
            width = cast(int, module.out_width)
    return LateChain(layers, width, dtype, pooling)
