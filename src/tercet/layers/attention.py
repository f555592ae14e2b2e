"""Attention over packed texts: the one function that knows kernels."""

from __future__ import annotations

__all__ = ["attention"]

from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional


def attention(qkv: Tensor, lengths: tuple[int, ...], num_heads: int) -> Tensor:
    """Softmax attention of each text over its own tokens (Vaswani et al. 2017), bidirectional.

    Args:
        qkv: (tokens, 3 * hidden), queries, keys and values side by side.
        lengths: tokens of each text, in the order in which they lie; rows behind the last belong to none.

    Returns:
        (tokens, hidden), in qkv's dtype; zeros for rows that belong to no text.
    """
    tokens, width = qkv.shape
    heads = qkv.view(tokens, 3, num_heads, width // (3 * num_heads))
    parts, start = [], 0
    # Neighbours of equal length share a kernel call; nothing is moved or padded to make more of them.
    for length, group in groupby(lengths):
        texts = sum(1 for _ in group)
        stop = start + texts * length
        # (3, texts, heads, length, width)
        query, key, value = heads[start:stop].view(texts, length, *heads.shape[1:]).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        parts.append(mixed.transpose(1, 2).reshape(stop - start, width // 3))
        start = stop
    if start < tokens:
        parts.append(qkv.new_zeros(tokens - start, width // 3))
    return torch.cat(parts) if len(parts) != 1 else parts[0]
