"""What the workers of stacks share: pairs of texts, and outputs of all kinds as one row of numbers.

A request's "call" says what is asked for: "encode", "query" (the route of queries), "sparse", "three" (dense,
lexical and token vectors), "late" (token vectors of documents), "pairs" (scores of a text with the next one).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any


class Numbers:
    """Outputs as a flat float32 array, laid out only when they are saved: no part of what is timed."""

    def __init__(self, parts: Callable[[], Iterable[Any]]) -> None:
        self.parts = parts

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """(numbers,) of all parts, one after the other."""
        import numpy as np

        return np.concatenate([np.asarray(part, dtype=np.float32).ravel() for part in self.parts()])


def pairs_of(texts: Sequence[str]) -> list[tuple[str, str]]:
    """(a short text, the next one) of every two: a query is shorter than what is ranked for it."""
    return [
        (" ".join(first.split()[:12]), second) for first, second in zip(texts[::2], texts[1::2], strict=True)
    ]


def laid_out(rows: Iterable[dict[int, float]], vocabulary: int) -> Any:
    """(texts, vocabulary) of weights by token id."""
    import numpy as np

    rows = list(rows)
    found = np.zeros((len(rows), vocabulary), dtype=np.float32)
    for place, row in enumerate(rows):
        for token, weight in row.items():
            found[place, int(token)] = weight
    return found
