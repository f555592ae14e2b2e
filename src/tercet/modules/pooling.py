"""Pooling: token vectors -> one vector a text."""

from __future__ import annotations

__all__ = ["Pooling"]

import torch
from torch import Tensor, nn

from tercet.batch import Batch
from tercet.checkpoint.layout import ModuleSpec
from tercet.layers.pooling import POOLING_MODES, pool
from tercet.modules import MODULES, Read


class Pooling(nn.Module):
    """One or several of sentence-transformers' six modes, side by side in the order given."""

    def __init__(self, modes: tuple[str, ...], width: int, *, include_prompt: bool = True) -> None:
        super().__init__()
        assert set(modes) <= set(POOLING_MODES), modes
        self.modes = modes
        self.include_prompt = include_prompt
        self.out_width = width * len(modes)

    def forward(
        self,
        hidden: Tensor,
        batch: Batch,
        dtype: torch.dtype,
        prompt_tokens: int = 0,
        weight_sums: Tensor | None = None,
    ) -> Tensor:
        """(tokens, hidden) -> (texts, hidden * modes) in `dtype`; `weight_sums` as `Tokens` has them.

        `prompt_tokens` are those of every text, but where the batch has them for each.
        """
        own = batch.prompt_tokens
        skip = 0 if self.include_prompt else prompt_tokens if own is None else own
        vectors = [pool(hidden, batch, mode, dtype, skip, weight_sums) for mode in self.modes]
        return vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=1)


@MODULES.register("pooling")
def pooling(spec: ModuleSpec, width: int, read: Read) -> Pooling:
    """A pooling module as the checkpoint describes it."""
    return Pooling(tuple(spec.config["modes"]), width, include_prompt=spec.config.get("include_prompt", True))
