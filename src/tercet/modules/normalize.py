"""Normalize: vectors of length 1."""

from __future__ import annotations

__all__ = ["Normalize"]

from torch import Tensor, nn
from torch.nn import functional

from tercet.checkpoint.layout import ModuleSpec
from tercet.modules import MODULES, Read


class Normalize(nn.Module):
    """Each vector divided by its length; a zero vector stays zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_width = width

    def forward(self, vectors: Tensor) -> Tensor:
        """(texts, width) -> (texts, width)."""
        return functional.normalize(vectors, dim=-1)


@MODULES.register("normalize")
def normalize(spec: ModuleSpec, width: int, read: Read) -> Normalize:
    """A Normalize module."""
    return Normalize(width)
