"""Exactly the k largest of a tensor that is never in memory as a whole: a radix selection by passes.

Numbers that are not negative have the order of their bits. A pass counts them by their leading bits; as soon
as few enough share those of the k-th largest, a pass collects these. Of equal numbers the first ones are
taken, so that exactly k are, whatever the chunks.
"""

from __future__ import annotations

__all__ = ["Largest", "kth_largest", "largest"]

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tercet.merging.method import Chunk, Pass

# (chunk) -> streams of float64 numbers that are not negative
Keys = Callable[[Chunk], Sequence[Tensor]]

_DIGITS = (45, 27, 9, 0)  # the lowest bit of each digit; the 63 bits are cut into 18, 18, 18 and 9
_COLLECTED = 1 << 19  # 4 MiB


@dataclass(frozen=True, slots=True)
class Largest:
    """The k largest of a stream.

    Attributes:
        bits: the smallest of them, as an integer.
        kept: how many that are equal to it belong to them.
        equal: how many are equal to it in all.
        before: place of a chunk -> how many that are equal to it come earlier; empty where all are kept.
    """

    bits: int
    kept: int
    equal: int
    before: Mapping[int, int] = field(default_factory=dict)

    @property
    def undecided(self) -> int:
        """How many are equal to it where not all of them belong to them; 0 where it is zero."""
        return self.equal if self.bits and self.kept < self.equal else 0

    @property
    def value(self) -> float:
        """The smallest of them."""
        return float(torch.tensor(self.bits, dtype=torch.int64).view(torch.float64))

    def mask(self, keys: Tensor, first: int) -> Tensor:
        """Which numbers of the chunk that begins at `first` belong to them."""
        bits = _bits(keys)
        if self.kept == self.equal:
            return bits >= self.bits
        same = bits == self.bits
        rank = same.reshape(-1).cumsum(0).view(same.shape) + self.before[first]
        return (bits > self.bits) | (same & (rank <= self.kept))


def kth_largest(
    keys: Keys, wanted: Sequence[tuple[int, int]], numbers: int, collected: int = _COLLECTED
) -> Generator[Pass[Any], Any, list[Largest]]:
    """For each (stream, k) the k-th largest number, 1 <= k <= numbers; fit for its value alone, not for
    `mask`.

    Args:
        keys: the streams.
        wanted: which stream, and k.
        numbers: how many a stream has.
        collected: most numbers of a stream that are held at once.
    """
    if not wanted:
        return []
    # Of each question: the leading bits that are known, how many of those that share them are wanted, and
    # all.
    prefixes, remaining, sharing = [0] * len(wanted), [k for _, k in wanted], [numbers] * len(wanted)
    known = 63
    for digit in _DIGITS:
        if max(sharing, default=0) <= collected:
            break
        counts = yield Pass(_counting(keys, wanted, prefixes, known, digit))
        for place, row in enumerate(counts):
            above = row.flip(0).cumsum(0)
            chosen = int(torch.searchsorted(above, remaining[place]))
            value = len(row) - 1 - chosen
            remaining[place] -= int(above[chosen] - row[value])
            sharing[place] = int(row[value])
            prefixes[place] = prefixes[place] << (known - digit) | value
        known = digit
    else:
        return [
            Largest(bits, kept, equal) for bits, kept, equal in zip(prefixes, remaining, sharing, strict=True)
        ]
    lists = yield Pass(_collecting(keys, wanted, prefixes, known), _joined)
    found = []
    for k, candidates in zip(remaining, lists, strict=True):
        bits = int(candidates.kthvalue(len(candidates) - k + 1).values)
        found.append(Largest(bits, k - int((candidates > bits).sum()), int((candidates == bits).sum())))
    return found


def largest(
    keys: Keys, wanted: Sequence[tuple[int, int]], numbers: int, collected: int = _COLLECTED
) -> Generator[Pass[Any], Any, list[Largest]]:
    """For each (stream, k) the k largest; one pass more where not all that equal the k-th are taken."""
    found = yield from kth_largest(keys, wanted, numbers, collected)
    if all(one.kept == one.equal for one in found):
        return found

    def statistics(chunk: Chunk) -> dict[int, list[int]]:
        bits = [_bits(key) for key in keys(chunk)]
        equal = [int((bits[s] == one.bits).sum()) for (s, _), one in zip(wanted, found, strict=True)]
        return {chunk.first: equal}

    by_chunk = yield Pass(statistics, lambda left, right: left | right)
    made = []
    for place, one in enumerate(found):
        before, reached = {}, 0
        for first in sorted(by_chunk):
            before[first] = reached
            reached += by_chunk[first][place]
        made.append(Largest(one.bits, one.kept, one.equal, before))
    return made


def _bits(keys: Tensor) -> Tensor:
    return keys.contiguous().view(torch.int64)


def _counting(
    keys: Keys, wanted: Sequence[tuple[int, int]], prefixes: Sequence[int], known: int, digit: int
) -> Callable[[Chunk], Tensor]:
    """(questions, values of the digit) how many numbers that share the known bits have each value."""
    asked = [(stream, prefix) for (stream, _), prefix in zip(wanted, prefixes, strict=True)]

    def statistics(chunk: Chunk) -> Tensor:
        streams = [_bits(key).reshape(-1) for key in keys(chunk)]
        rows: dict[tuple[int, int], Tensor] = {}
        for stream, prefix in dict.fromkeys(asked):
            bits = streams[stream]
            if known < 63:
                bits = bits[bits >> known == prefix]
            values = (bits >> digit) & ((1 << (known - digit)) - 1)
            rows[stream, prefix] = torch.bincount(values, minlength=1 << (known - digit))
        return torch.stack([rows[one] for one in asked])

    return statistics


def _collecting(
    keys: Keys, wanted: Sequence[tuple[int, int]], prefixes: Sequence[int], known: int
) -> Callable[[Chunk], list[Tensor]]:
    """Of each question the numbers that share its known bits."""
    fixed = tuple(prefixes)

    def statistics(chunk: Chunk) -> list[Tensor]:
        streams = [_bits(key).reshape(-1) for key in keys(chunk)]
        chosen = [streams[stream] for stream, _ in wanted]
        if known == 63:
            return chosen
        return [bits[bits >> known == prefix] for bits, prefix in zip(chosen, fixed, strict=True)]

    return statistics


def _joined(left: list[Tensor], right: list[Tensor]) -> list[Tensor]:
    # at once: many small pieces that stay between large ones that go would keep the memory of both
    return [torch.cat(pair) for pair in zip(left, right, strict=True)]
