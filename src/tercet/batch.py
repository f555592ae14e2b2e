"""Texts laid end to end: what an engine's forward takes."""

from __future__ import annotations

__all__ = ["Batch"]

from dataclasses import dataclass
from itertools import chain

import numpy as np
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
        attended: (texts,) int64, how many tokens of each text, from its first on, are keys of attention; None
            for all of them. ColBERT's queries end in tokens that look at the others, and at which none looks.
        prompt_tokens: how many leading tokens of each text are a prompt's, with the tokens before it, where
            texts have prompts of their own; None where the call says it for all of them.
    """

    token_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    lengths: tuple[int, ...]
    token_type_ids: Tensor | None = None
    attended: Tensor | None = None
    prompt_tokens: tuple[int, ...] | None = None

    @classmethod
    def from_ids(cls, texts: list[list[int]]) -> Batch:
        """The texts' token ids, laid end to end, on the CPU."""
        lengths = tuple(map(len, texts))
        if len(texts) == 1:
            [length] = lengths
            token_ids = torch.tensor(texts[0], dtype=torch.int64)
            bounds = torch.tensor([0, length], dtype=torch.int32)
            return cls(token_ids, torch.arange(length), bounds, lengths)
        # By NumPy, which takes an eighth of the time that torch takes to read a list.
        ends = np.cumsum((0, *lengths), dtype=np.int64)
        ids = np.fromiter(chain.from_iterable(texts), dtype=np.int64, count=int(ends[-1]))
        places = np.arange(len(ids), dtype=np.int64) - np.repeat(ends[:-1], lengths)
        bounds = torch.from_numpy(ends.astype(np.int32))
        return cls(torch.from_numpy(ids), torch.from_numpy(places), bounds, lengths)

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
        types, attended = self.token_type_ids, self.attended
        return Batch(
            _moved(self.token_ids, device),
            _moved(self.position_ids, device),
            _moved(self.cu_seqlens, device),
            self.lengths,
            None if types is None else _moved(types, device),
            None if attended is None else _moved(attended, device),
            self.prompt_tokens,
        )


def _moved(values: Tensor, device: torch.device) -> Tensor:
    # Only from pinned memory does a copy to a GPU run beside the host, which goes on to the next texts.
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
