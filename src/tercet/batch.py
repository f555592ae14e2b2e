"""Texts laid end to end: what an engine's forward takes."""

from __future__ import annotations

__all__ = ["Batch"]

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Several texts' tokens laid end to end, without padding.

    Attributes:
        token_ids: (tokens,) int64.
        position_ids: (tokens,) int64, counted from 0 within each text; an encoder adds its table's offset.
        cu_seqlens: (texts + 1,) int32, where each text begins, and at last the number of tokens.
        lengths: tokens of each text, as Python integers, so that no engine has to wait for a device to tell.
        token_type_ids: (tokens,) int64 or None, which stands for all zeros.
    """

    token_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    lengths: tuple[int, ...]
    token_type_ids: Tensor | None = None

    @classmethod
    def from_ids(cls, texts: list[list[int]]) -> Batch:
        """The texts' token ids, laid end to end, on the CPU."""
        lengths = tuple(len(ids) for ids in texts)
        token_ids = torch.tensor([token for ids in texts for token in ids], dtype=torch.int64)
        ends = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)
        starts = torch.repeat_interleave(ends[:-1], ends.diff())
        position_ids = torch.arange(len(token_ids), dtype=torch.int64) - starts
        return cls(token_ids, position_ids, ends.to(torch.int32), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """Tokens of all texts together."""
        return sum(self.lengths)

    @property
    def max_seqlen(self) -> int:
        """Tokens of the longest text, 0 of none."""
        return max(self.lengths, default=0)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        if self.token_ids.device == device:
            return self
        types = self.token_type_ids
        return Batch(
            self.token_ids.to(device, non_blocking=True),
            self.position_ids.to(device, non_blocking=True),
            self.cu_seqlens.to(device, non_blocking=True),
            self.lengths,
            None if types is None else types.to(device, non_blocking=True),
        )
