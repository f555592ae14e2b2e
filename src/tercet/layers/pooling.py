"""One vector a text from packed token vectors: sentence-transformers' six modes, in float32 or wider."""

from __future__ import annotations

__all__ = ["POOLING_MODES", "pool", "pool_at_once", "pool_by_text"]

from collections.abc import Sequence

import torch
from torch import Tensor

from tercet.batch import Batch
from tercet.checkpoint.stack import POOLING_MODES
from tercet.layers.one_thread import ONE_THREAD


def pool(
    hidden: Tensor,
    batch: Batch,
    mode: str,
    dtype: torch.dtype,
    skip: int | Sequence[int] = 0,
    weight_sums: Tensor | None = None,
) -> Tensor:
    """One vector a text.

    Args:
        hidden: (tokens, hidden) in any float dtype.
        batch: where each text lies, on the same device.
        mode: one of POOLING_MODES.
        dtype: of the arithmetic and of what comes out.
        skip: leading tokens of each text (the prompt) that are left out, one number for all or one for each;
            a text without other tokens gives zeros, and its first token of "cls".
        weight_sums: (texts,) what means divide by, where the rows were multiplied by weights of their words;
            of those weights all count, the prompt's too.

    Returns:
        (texts, hidden) in `dtype`, in memory of its own.
    """
    # On a CPU a call is cheap, and a text's tokens are added in the same order whatever stands beside them.
    if hidden.is_cpu and len(batch):
        return pool_by_text(hidden, batch, mode, dtype, skip, weight_sums)
    return pool_at_once(hidden, batch, mode, dtype, skip, weight_sums)


def pool_by_text(
    hidden: Tensor,
    batch: Batch,
    mode: str,
    dtype: torch.dtype,
    skip: int | Sequence[int] = 0,
    weight_sums: Tensor | None = None,
) -> Tensor:
    """`pool` of at least one text, a few operations for each."""
    texts = torch.split(hidden, list(batch.lengths)) if len(batch) > 1 else (hidden,)
    if mode == "mean" and not skip and weight_sums is None:
        # What most models do, and for a table of vectors most of the work.
        totals = torch.cat([_sum(text, dtype) for text in texts])
        return totals.div_(torch.tensor(batch.lengths, dtype=dtype).clamp_(min=1)[:, None])
    sums = [None] * len(texts) if weight_sums is None else weight_sums.to(dtype)
    skips = [skip] * len(texts) if isinstance(skip, int) else skip
    rows = [
        _one_text(text, mode, dtype, left_out, own)
        for text, left_out, own in zip(texts, skips, sums, strict=True)
    ]
    return torch.cat(rows) if len(rows) > 1 else rows[0]


def pool_at_once(
    hidden: Tensor,
    batch: Batch,
    mode: str,
    dtype: torch.dtype,
    skip: int | Sequence[int] = 0,
    weight_sums: Tensor | None = None,
) -> Tensor:
    """`pool` in a few operations for all texts: for devices that are slow to start one."""
    starts, stops = batch.cu_seqlens[:-1].long(), batch.cu_seqlens[1:].long()
    skips = skip if isinstance(skip, int) else torch.tensor(skip, device=hidden.device)
    if mode == "cls":
        return hidden[torch.where(stops - starts > skips, starts + skips, starts)].to(dtype)
    if mode == "lasttoken":
        last = hidden[stops - 1].to(dtype)
        return torch.where((stops - starts > skips)[:, None], last, torch.zeros_like(last))
    lengths = stops - starts
    rows = hidden.to(dtype)
    # The number of rows is known on the host: without it a GPU would have to be waited for.
    first = torch.repeat_interleave(starts, lengths, output_size=len(hidden))
    position = torch.arange(len(hidden), device=hidden.device) - first
    if skip:
        first_kept = (
            skips
            if isinstance(skips, int)
            else torch.repeat_interleave(skips, lengths, output_size=len(hidden))
        )
        kept = position >= first_kept
        rows, position, lengths = rows[kept], position[kept], (lengths - skips).clamp(min=0)
    if mode == "max":
        texts = torch.arange(len(lengths), device=hidden.device)
        text = torch.repeat_interleave(texts, lengths, output_size=len(rows))
        lowest = rows.new_full((len(lengths), rows.shape[1]), float("-inf"))
        found = lowest.scatter_reduce_(0, text[:, None].expand_as(rows), rows, "amax")
        return found.masked_fill_((lengths == 0)[:, None], 0.0)
    if mode == "weightedmean":
        # Weights grow with the position in the whole text, the prompt counted (Muennighoff 2022).
        weights = (position + 1).to(dtype)[:, None]
        total = _segment_sum(weights, lengths) if weight_sums is None else weight_sums.to(dtype)[:, None]
        return _segment_sum(rows * weights, lengths) / total.clamp(min=1e-9)
    count = (lengths if weight_sums is None else weight_sums).to(dtype)[:, None].clamp(min=1e-9)
    divisor = count.sqrt() if mode == "mean_sqrt_len_tokens" else count
    return _segment_sum(rows, lengths) / divisor.clamp(min=1e-9)


def _one_text(
    text: Tensor, mode: str, dtype: torch.dtype, skip: int, weight_sum: Tensor | None = None
) -> Tensor:
    """(1, hidden) of one text's (tokens, hidden)."""
    rows = text[skip:] if skip else text
    count = len(rows)
    if mode == "cls":
        return (rows if count else text)[:1].to(dtype, copy=True)
    if not count:
        # Of a maximum, too, where sentence-transformers has -inf: a vector that nothing can be compared with.
        return torch.zeros(1, text.shape[1], dtype=dtype)
    if mode == "max":
        return rows.amax(0, keepdim=True).to(dtype)
    if mode == "lasttoken":
        return rows[-1:].to(dtype, copy=True)
    if mode == "weightedmean":
        weights = torch.arange(len(text) - count + 1, len(text) + 1, dtype=dtype)[:, None]
        divisor = weights.sum() if weight_sum is None else weight_sum.clamp(min=1e-9)
        return (rows.to(dtype) * weights).sum(0, keepdim=True) / divisor
    total = _sum(rows, dtype)
    if weight_sum is not None:
        divisor = weight_sum.clamp(min=1e-9)
        return total.div_(divisor.sqrt() if mode == "mean_sqrt_len_tokens" else divisor)
    return total.div_(count**0.5 if mode == "mean_sqrt_len_tokens" else count)


def _sum(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """(1, hidden), the sum of one text's rows; a long text's by parts, so that no other thread is woken."""
    if rows.numel() <= ONE_THREAD:
        return rows.sum(0, keepdim=True, dtype=dtype)
    step = max(1, ONE_THREAD // rows.shape[1])
    parts = torch.cat([part.sum(0, keepdim=True, dtype=dtype) for part in torch.split(rows, step)])
    return parts.sum(0, keepdim=True)


def _segment_sum(values: Tensor, lengths: Tensor) -> Tensor:
    """(texts, width) sums of the rows of each text; values (tokens, width), lengths (texts,)."""
    texts = torch.arange(len(lengths), device=values.device)
    text = torch.repeat_interleave(texts, lengths, output_size=len(values))
    return values.new_zeros(len(lengths), values.shape[1]).index_add_(0, text, values)
