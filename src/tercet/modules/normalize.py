"""Normalize: vectors of length 1."""

from __future__ import annotations

__all__ = ["Normalize"]

from torch import Tensor, nn

from tercet.checkpoint.layout import ModuleSpec
from tercet.layers.norm import unit_rows
from tercet.modules import MODULES, Read


class Normalize(nn.Module):
    """Each vector divided by its length; a zero vector stays zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_width = width

    def forward(self, vectors: Tensor) -> Tensor:
        """(texts, width) -> (texts, width)."""
        return unit_rows(vectors)


@MODULES.register("normalize")
def normalize(spec: ModuleSpec, width: int, read: Read) -> Normalize:
    """A Normalize module."""
    return Normalize(width)
