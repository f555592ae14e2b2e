"""Ward's hierarchical clustering, in NumPy alone."""

from __future__ import annotations

__all__ = ["ward"]

from typing import Any

import numpy as np
from numpy.typing import NDArray


def ward(distances: NDArray[np.float64], clusters: int) -> NDArray[np.int64]:
    """Cluster (items,) of each item, numbered in the order in which the items first meet them.

    The merges of Ward's method by the Lance-Williams recurrence, found along chains of nearest neighbours
    (Müllner 2011, "Modern hierarchical, agglomerative clustering algorithms"), of which the lowest are kept.
    Where no two merges are equally high, that is the partition of SciPy's
    `fcluster(linkage(condensed, "ward"), clusters, "maxclust")`; it always has exactly `clusters` parts.
    Time and memory grow with the square of the items.

    Args:
        distances: (items, items), symmetric; the array is overwritten.
        clusters: how many to leave, 1 to items.
    """
    items = len(distances)
    merges = _merges(distances)
    # Chains find merges out of order; none is ever lower than those it is made of, so a stable sort suffices.
    merges.sort(key=lambda merge: merge[0])
    parent = list(range(items))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for _, first, second in merges[: items - clusters]:
        parent[root(second)] = root(first)
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(root(item), len(numbers)) for item in range(items)], dtype=np.int64)


def _merges(distances: NDArray[np.float64]) -> list[tuple[float, int, int]]:
    """Every merge as (height, an item of the one cluster, an item of the other)."""
    items = len(distances)
    np.fill_diagonal(distances, np.inf)
    sizes = np.ones(items)
    active = np.ones(items, dtype=bool)
    merges: list[tuple[float, int, int]] = []
    chain: list[int] = []
    while len(merges) < items - 1:
        if not chain:
            chain.append(int(active.argmax()))
        while True:
            tip = chain[-1]
            found = int(distances[tip].argmin())
            # Of equally near ones the one that the chain came from, or it would never end.
            if len(chain) > 1 and distances[tip, chain[-2]] <= distances[tip, found]:
                found = chain[-2]
                break
            chain.append(found)
        del chain[-2:]
        height = float(distances[tip, found])
        merges.append((height, tip, found))
        _join(distances, sizes, active, tip, found, height)
    return merges


def _join(
    distances: NDArray[np.float64],
    sizes: NDArray[Any],
    active: NDArray[Any],
    gone: int,
    kept: int,
    height: float,
) -> None:
    """Put the union of two clusters in the place of `kept`."""
    active[gone] = False
    rest = active.copy()
    rest[kept] = False
    both = sizes[gone] + sizes[kept]
    squares = (
        (sizes[gone] + sizes[rest]) * distances[gone, rest] ** 2
        + (sizes[kept] + sizes[rest]) * distances[kept, rest] ** 2
        - sizes[rest] * height**2
    ) / (both + sizes[rest])
    joined = np.sqrt(squares)
    distances[kept, rest] = joined
    distances[rest, kept] = joined
    distances[gone, :] = np.inf
    distances[:, gone] = np.inf
    sizes[kept] = both
