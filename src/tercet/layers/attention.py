"""Attention over packed texts: the one place that knows kernels."""

from __future__ import annotations

__all__ = ["attention", "grouped", "padded", "varlen"]

from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional

from tercet.batch import Batch


def attention(qkv: Tensor, batch: Batch, num_heads: int) -> Tensor:
    """Softmax attention of each text over its own tokens (Vaswani et al. 2017), bidirectional.

    Args:
        qkv: (tokens, 3 * hidden), queries, keys and values side by side.
        batch: where each text lies; rows of qkv behind its last text belong to none.
        num_heads: heads that share the hidden size.

    Returns:
        (tokens, hidden), in qkv's dtype; zeros for rows that belong to no text.
    """
    if qkv.device.type == "cpu":
        return grouped(qkv, batch, num_heads)
    if qkv.device.type == "cuda" and qkv.dtype in (torch.float16, torch.bfloat16):
        return varlen(qkv, batch, num_heads)
    return padded(qkv, batch, num_heads)


def grouped(qkv: Tensor, batch: Batch, num_heads: int) -> Tensor:
    """One kernel call for each run of texts of equal length; nothing is moved or padded for it."""
    tokens, width = qkv.shape
    heads = qkv.view(tokens, 3, num_heads, width // (3 * num_heads))
    parts, start = [], 0
    for length, group in groupby(batch.lengths):
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


def varlen(qkv: Tensor, batch: Batch, num_heads: int) -> Tensor:
    """Flash attention over packed texts (Dao 2023), for half precision on CUDA: one call a batch."""
    from torch.nn.attention.varlen import varlen_attn

    tokens, width = qkv.shape
    query, key, value = qkv.view(tokens, 3, num_heads, width // (3 * num_heads)).unbind(1)
    bounds, longest = batch.cu_seqlens, batch.max_seqlen
    mixed = varlen_attn(query, key, value, bounds, bounds, longest, longest)
    assert isinstance(mixed, Tensor)
    return mixed.reshape(tokens, width // 3)


def padded(qkv: Tensor, batch: Batch, num_heads: int) -> Tensor:
    """Padded for this one step, where a call costs more than the padding: other formats on a GPU.

    Keys of the padding are masked, so that no text sees them.
    """
    tokens, width = qkv.shape
    position = torch.arange(batch.max_seqlen, device=qkv.device)
    starts, lengths = batch.cu_seqlens[:-1, None].long(), batch.cu_seqlens.diff()[:, None]
    inside = position < lengths  # (texts, longest)
    rows = torch.where(inside, starts + position, starts)
    # (3, texts, heads, longest, width)
    heads = qkv[rows].view(*rows.shape, 3, num_heads, width // (3 * num_heads))
    query, key, value = heads.permute(2, 0, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=inside[:, None, None, :])
    found = qkv.new_zeros(tokens, width // 3)
    found[: batch.num_tokens] = mixed.transpose(1, 2).flatten(2)[inside]
    return found
