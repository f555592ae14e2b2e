"""One bit a dimension: its sign, eight in a byte, in the layouts of sentence-transformers."""

from __future__ import annotations

__all__ = ["pack_signs", "signs"]

import torch
from torch import Tensor


def pack_signs(vectors: Tensor, *, signed: bool) -> Tensor:
    """(vectors, ceil(dim / 8)): a bit is 1 where the value is above 0, so 0 and -0 count as negative.

    The first dimension is the highest bit of the first byte; the last byte is filled with zeros. This is
    "ubinary" (uint8) of sentence-transformers' `quantize_embeddings`; its "binary" (int8) is 128 less.
    """
    rows, dim = vectors.shape
    width = -(-dim // 8)
    bits = torch.zeros(rows, width * 8, dtype=torch.uint8, device=vectors.device)
    bits[:, :dim] = vectors > 0
    places = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=vectors.device)
    packed = (bits.view(rows, width, 8) * places).sum(dim=2, dtype=torch.uint8)
    # 128 less, modulo 256, is the same byte with its highest bit turned over.
    return (packed ^ 0x80).view(torch.int8) if signed else packed


def signs(packed: Tensor, dim: int) -> Tensor:
    """(vectors, dim) float32 of 1 and -1, from either layout of `pack_signs`."""
    if packed.dtype == torch.int8:
        packed = packed.view(torch.uint8) ^ 0x80
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    bits = (packed[:, :, None] >> shifts) & 1
    return bits.flatten(1)[:, :dim].float() * 2.0 - 1.0
