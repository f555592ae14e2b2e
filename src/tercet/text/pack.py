"""Token ids -> batches by a token budget."""

from __future__ import annotations

__all__ = ["pack"]

from collections.abc import Iterator, Sequence


def pack(lengths: Sequence[int], token_budget: int) -> Iterator[slice]:
    """Consecutive texts that fit a budget of tokens together; a text longer than the budget goes alone.

    Nothing is padded, so there is nothing to gain by sorting the texts, and order in is order out.
    """
    start = total = 0
    for index, length in enumerate(lengths):
        if index > start and total + length > token_budget:
            yield slice(start, index)
            start, total = index, 0
        total += length
    if start < len(lengths):
        yield slice(start, len(lengths))
