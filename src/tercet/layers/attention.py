"""Attention over packed texts: the one place that knows kernels."""

from __future__ import annotations

__all__ = ["BIAS_BLOCK_BYTES", "attention", "grouped", "padded", "varlen"]

from functools import partial
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional

from tercet.batch import Batch
from tercet.kernels import attention as native

# Of a bias that is written out for each pair of tokens, on a GPU: so many texts and heads are taken at once.
# One head's of one text may be larger.
BIAS_BLOCK_BYTES = 64 << 20


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    batch: Batch,
    num_heads: int,
    *,
    bias: Tensor | None = None,
    bfloat16: bool = False,
    causal: bool = False,
) -> Tensor:
    """Softmax attention of each text over its own tokens (Vaswani et al. 2017), bidirectional or causal.

    Args:
        query, key, value: (tokens, hidden) each; columns of one fused product, or three tensors. Keys and
            values may be narrower, of fewer heads, each of which serves as many of the queries' in a row.
        batch: where each text lies; rows behind its last text belong to none.
        num_heads: heads that share the hidden size of the queries.
        bias: (num_heads, 2 reach + 1), added to the scaled score of a key that is -reach..reach places behind
            its query; contiguous, and no text is longer than reach + 1. None for no bias.
        bfloat16: products of float32 rows in bfloat16, where a native kernel multiplies it.
        causal: a token looks at itself and at those before it alone; without a bias.

    Returns:
        (tokens, hidden), in the dtype of what came in. Rows that belong to no text are zeros, or anything
        where flash attention does not write them; they never enter another row.
    """
    if batch.attended is not None:
        return padded(query, key, value, batch, num_heads, bias=bias, causal=causal)
    if query.device.type == "cpu":
        # The kernel knows no gradients.
        learns = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
        if bias is None and not causal and native.available(query.dtype) and not learns:
            return native.attention(query, key, value, batch.cu_seqlens, num_heads, bfloat16=bfloat16)
        return grouped(query, key, value, batch, num_heads, bias=bias, causal=causal)
    if bias is None and query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16):
        return varlen(query, key, value, batch, num_heads, causal=causal)
    return padded(query, key, value, batch, num_heads, bias=bias, causal=causal)


def grouped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    batch: Batch,
    num_heads: int,
    *,
    bias: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """One kernel call for each run of texts of equal length; nothing is padded for it.

    A bias is never written out for each pair of tokens: the kernel reads it through a view.
    """
    tokens, hidden = query.shape
    width = hidden // num_heads
    parts, start = [], 0
    for length, group in groupby(batch.lengths):
        texts = sum(1 for _ in group)
        stop = start + texts * length
        # (texts, heads, length, width)
        queries, keys, values = (
            rows[start:stop].view(texts, length, rows.shape[1] // width, width).transpose(1, 2)
            for rows in (query, key, value)
        )
        if bias is None or not length:
            mixed = functional.scaled_dot_product_attention(
                queries, keys, values, is_causal=causal, enable_gqa=keys.shape[1] != num_heads
            )
        else:
            mixed = _with_bias(queries, keys, values, bias)
        parts.append(mixed.transpose(1, 2).reshape(stop - start, hidden))
        start = stop
    if start < tokens or not parts:
        parts.append(query.new_zeros(tokens - start, hidden))
    return torch.cat(parts) if len(parts) != 1 else parts[0]


def _with_bias(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """(texts, heads, length, width) each -> the same; texts of one length."""
    length, reach = queries.shape[2], bias.shape[1] // 2
    # With the last query first, each row of scores has the bias of the one above it moved by one place: all
    # rows are windows of the same 2 length - 1 numbers.
    windows = bias[:, reach - length + 1 : reach + length].to(queries.dtype).unfold(1, length, 1)
    mixed = functional.scaled_dot_product_attention(queries.flip(2), keys, values, attn_mask=windows[None])
    return mixed.flip(2)


def varlen(
    query: Tensor, key: Tensor, value: Tensor, batch: Batch, num_heads: int, *, causal: bool = False
) -> Tensor:
    """Flash attention over packed texts (Dao 2023), for half precision on CUDA: one call a batch.

    Where texts begin and end is read on the device; `max_seqlen` may be larger than the longest of them.
    """
    from torch.nn.attention.varlen import varlen_attn

    tokens, hidden = query.shape
    width = hidden // num_heads
    heads = [rows.view(tokens, rows.shape[1] // width, width) for rows in (query, key, value)]
    bounds, longest = batch.cu_seqlens, batch.max_seqlen
    call = varlen_attn
    if causal:
        shares = heads[1].shape[1] != num_heads
        call = partial(varlen_attn, window_size=(-1, 0), enable_gqa=shares)
    mixed = call(heads[0], heads[1], heads[2], bounds, bounds, longest, longest)
    assert isinstance(mixed, Tensor)
    return mixed.reshape(tokens, hidden)


def padded(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    batch: Batch,
    num_heads: int,
    *,
    bias: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """Padded for this one step, where a call costs more than the padding.

    For other formats on a GPU, for MPS, for a bias, which flash attention does not know, and for texts of
    which a part alone is attended to. Keys of the padding are masked, so that no text sees them. Nothing
    waits for the device, and of the batch's numbers only `max_seqlen` shapes anything: so a captured graph
    serves every batch of its size.
    """
    tokens, hidden = query.shape
    width = hidden // num_heads
    position = torch.arange(batch.max_seqlen, device=query.device)
    starts, lengths = batch.cu_seqlens[:-1, None].long(), batch.cu_seqlens.diff()[:, None]
    inside = position < lengths  # (texts, longest)
    # A text is padded with its own first row: a neighbour's infinities would get through a mask. Clamped for
    # texts without tokens, which may begin behind the last row.
    places = torch.where(inside, starts + position, starts).clamp(max=tokens - 1)
    # (texts, heads, longest, width)
    queries, keys, values = (
        rows[places].view(*places.shape, rows.shape[1] // width, width).transpose(1, 2)
        for rows in (query, key, value)
    )
    # Written out: not every kernel that keeps no scores of all pairs knows of shared keys.
    shared = num_heads // keys.shape[1]
    if shared > 1:
        keys, values = (rows.repeat_interleave(shared, dim=1) for rows in (keys, values))
    keys_seen = inside if batch.attended is None else position < batch.attended[:, None]
    mask = keys_seen[:, None, None, :]
    if causal and batch.attended is None:
        # Padding stands behind each text, where none of its tokens looks.
        mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    elif bias is None:
        if causal:
            mask = mask & (position <= position[:, None])
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    else:
        mixed = _in_blocks(queries, keys, values, mask, bias)
    # What was computed for padding goes to a row behind all others, and no further.
    found = query.new_zeros(tokens + 1, hidden)
    found[torch.where(inside, places, tokens)] = mixed.transpose(1, 2).flatten(2)
    return found[:tokens]


def _in_blocks(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
    """(texts, heads, longest, width) each -> the same, the bias written out for a block at a time."""
    texts, heads, longest, _ = queries.shape
    reach = bias.shape[1] // 2
    place = torch.arange(longest, device=queries.device)
    behind = place - place[:, None] + reach  # (longest, longest)
    one = max(1, longest * longest * queries.element_size())
    most_heads = min(heads, max(1, BIAS_BLOCK_BYTES // one))
    most_texts = max(1, BIAS_BLOCK_BYTES // (one * most_heads))
    mixed = torch.empty_like(queries)
    for head in range(0, heads, most_heads):
        some = slice(head, head + most_heads)
        pairs = bias[some].to(queries.dtype)[:, behind]  # (heads, longest, longest)
        for text in range(0, texts, most_texts):
            part = (slice(text, text + most_texts), some)
            scores = torch.where(mask[part[0]], pairs, float("-inf"))
            mixed[part] = functional.scaled_dot_product_attention(
                queries[part], keys[part], values[part], attn_mask=scores
            )
    return mixed
