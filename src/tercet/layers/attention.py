"""Attention over packed texts: the one place that knows kernels."""

from __future__ import annotations

__all__ = ["Attention", "attention", "grouped", "padded", "varlen"]

from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.batch import Batch
from tercet.kernels import attention as native


class Attention(nn.Module):
    """The attention of an encoder's layer.

    Attributes:
        heads: that share the hidden size.
        bfloat16: whether an engine wants the products of float32 rows in bfloat16, where a kernel has them.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.bfloat16 = False

    def forward(self, query: Tensor, key: Tensor, value: Tensor, batch: Batch) -> Tensor:
        """(tokens, hidden) each -> (tokens, hidden)."""
        return attention(query, key, value, batch, self.heads, bfloat16=self.bfloat16)


def attention(
    query: Tensor, key: Tensor, value: Tensor, batch: Batch, num_heads: int, *, bfloat16: bool = False
) -> Tensor:
    """Softmax attention of each text over its own tokens (Vaswani et al. 2017), bidirectional.

    Args:
        query, key, value: (tokens, hidden) each; columns of one fused product, or three tensors.
        batch: where each text lies; rows behind its last text belong to none.
        num_heads: heads that share the hidden size.
        bfloat16: products of float32 rows in bfloat16, by the native kernel for processors that multiply it.

    Returns:
        (tokens, hidden), in the dtype of what came in. Rows that belong to no text are zeros, or anything
        where flash attention does not write them; they never enter another row.
    """
    if query.device.type == "cpu":
        # The kernel knows no gradients.
        learns = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
        if native.available(query.dtype) and not learns:
            return native.attention(query, key, value, batch.cu_seqlens, num_heads, bfloat16=bfloat16)
        return grouped(query, key, value, batch, num_heads)
    if query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16):
        return varlen(query, key, value, batch, num_heads)
    return padded(query, key, value, batch, num_heads)


def grouped(query: Tensor, key: Tensor, value: Tensor, batch: Batch, num_heads: int) -> Tensor:
    """One kernel call for each run of texts of equal length; nothing is moved or padded for it."""
    tokens, hidden = query.shape
    parts, start = [], 0
    for length, group in groupby(batch.lengths):
        texts = sum(1 for _ in group)
        stop = start + texts * length
        # (texts, heads, length, width)
        queries, keys, values = (
            rows[start:stop].view(texts, length, num_heads, hidden // num_heads).transpose(1, 2)
            for rows in (query, key, value)
        )
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        parts.append(mixed.transpose(1, 2).reshape(stop - start, hidden))
        start = stop
    if start < tokens or not parts:
        parts.append(query.new_zeros(tokens - start, hidden))
    return torch.cat(parts) if len(parts) != 1 else parts[0]


def varlen(query: Tensor, key: Tensor, value: Tensor, batch: Batch, num_heads: int) -> Tensor:
    """Flash attention over packed texts (Dao 2023), for half precision on CUDA: one call a batch.

    Where texts begin and end is read on the device; `max_seqlen` may be larger than the longest of them.
    """
    from torch.nn.attention.varlen import varlen_attn

    tokens, hidden = query.shape
    heads = [rows.view(tokens, num_heads, hidden // num_heads) for rows in (query, key, value)]
    bounds, longest = batch.cu_seqlens, batch.max_seqlen
    mixed = varlen_attn(heads[0], heads[1], heads[2], bounds, bounds, longest, longest)
    assert isinstance(mixed, Tensor)
    return mixed.reshape(tokens, hidden)


def padded(query: Tensor, key: Tensor, value: Tensor, batch: Batch, num_heads: int) -> Tensor:
    """Padded for this one step, where a call costs more than the padding: other formats on a GPU, and MPS.

    Keys of the padding are masked, so that no text sees them. Nothing waits for the device, and of the
    batch's numbers only `max_seqlen` shapes anything: so a captured graph serves every batch of its size.
    """
    tokens, hidden = query.shape
    position = torch.arange(batch.max_seqlen, device=query.device)
    starts, lengths = batch.cu_seqlens[:-1, None].long(), batch.cu_seqlens.diff()[:, None]
    inside = position < lengths  # (texts, longest)
    # A text is padded with its own first row: a neighbour's infinities would get through a mask. Clamped for
    # texts without tokens, which may begin behind the last row.
    places = torch.where(inside, starts + position, starts).clamp(max=tokens - 1)
    # (texts, heads, longest, width)
    queries, keys, values = (
        rows[places].view(*places.shape, num_heads, hidden // num_heads).transpose(1, 2)
        for rows in (query, key, value)
    )
    mask = inside[:, None, None, :]
    mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    # What was computed for padding goes to a row behind all others, and no further.
    found = query.new_zeros(tokens + 1, hidden)
    found[torch.where(inside, places, tokens)] = mixed.transpose(1, 2).flatten(2)
    return found[:tokens]
