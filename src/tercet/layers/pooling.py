"""One vector a text from packed token vectors: sentence-transformers' six modes, in float32 or wider."""

from __future__ import annotations

__all__ = ["POOLING_MODES", "pool", "segment_sum"]

import torch
from torch import Tensor

from tercet.checkpoint.stack import POOLING_MODES


def segment_sum(values: Tensor, lengths: Tensor) -> Tensor:
    """(texts, width) sums of the rows of each text; values (tokens, width), lengths (texts,)."""
    text = torch.repeat_interleave(torch.arange(len(lengths), device=values.device), lengths)
    return values.new_zeros(len(lengths), values.shape[1]).index_add_(0, text, values)


def pool(hidden: Tensor, cu_seqlens: Tensor, mode: str, dtype: torch.dtype, skip: int = 0) -> Tensor:
    """One vector a text.

    Args:
        hidden: (tokens, hidden) in any float dtype.
        cu_seqlens: (texts + 1,).
        mode: one of POOLING_MODES.
        dtype: of the arithmetic and of what comes out.
        skip: leading tokens of each text (the prompt) that are left out; a text without other tokens gives
            what sentence-transformers gives: zeros of means, -inf of a maximum, its first token of "cls".

    Returns:
        (texts, hidden) in `dtype`.
    """
    starts, stops = cu_seqlens[:-1].long(), cu_seqlens[1:].long()
    if mode == "cls":
        return hidden[torch.where(stops - starts > skip, starts + skip, starts)].to(dtype)
    if mode == "lasttoken":
        last = hidden[stops - 1].to(dtype)
        return torch.where((stops - starts > skip)[:, None], last, torch.zeros_like(last))
    lengths = stops - starts
    rows = hidden.to(dtype)
    position = torch.arange(len(hidden), device=hidden.device) - torch.repeat_interleave(starts, lengths)
    if skip:
        kept = position >= skip
        rows, position, lengths = rows[kept], position[kept], (lengths - skip).clamp(min=0)
    if mode == "max":
        text = torch.repeat_interleave(torch.arange(len(lengths), device=hidden.device), lengths)
        lowest = rows.new_full((len(lengths), rows.shape[1]), float("-inf"))
        return lowest.scatter_reduce_(0, text[:, None].expand_as(rows), rows, "amax")
    if mode == "weightedmean":
        # Weights grow with the position in the whole text, the prompt counted (Muennighoff 2022).
        weights = (position + 1).to(dtype)[:, None]
        return segment_sum(rows * weights, lengths) / segment_sum(weights, lengths).clamp(min=1e-9)
    count = lengths.to(dtype)[:, None]
    divisor = count.sqrt() if mode == "mean_sqrt_len_tokens" else count
    return segment_sum(rows, lengths) / divisor.clamp(min=1e-9)
