"""Two checkpoints compared tensor by tensor, chunk by chunk."""

from __future__ import annotations

__all__ = ["TensorDifference", "compare"]

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.tensors import TensorReader
from tercet.merging.folder import ENCODER, ModelFolder

_CHUNK_NUMBERS = 1 << 19


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """One tensor in two checkpoints.

    Attributes:
        name: as the first one has it, or the second where the first has none.
        kind: "same" (bit by bit in one dtype), "changed", "shape", "only first" or "only second".
        shapes, dtypes: of both; None where it is not there.
        relative_change: the length of the difference by that of the first one's; None where that is zero and
            the difference is not, or the shapes differ.
        cosine: between both as vectors; None where one is zero.
        largest: the largest difference of two numbers.
    """

    name: str
    kind: str
    shapes: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    dtypes: tuple[str | None, str | None]
    relative_change: float | None = None
    cosine: float | None = None
    largest: float | None = None

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)


def compare(
    first: ModelFolder, second: ModelFolder, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[TensorDifference]:
    """Every tensor of both: what only one has or has in another size first, then the most changed.

    Args:
        first, second: what to compare; names match without known prefixes.
        progress: told the numbers that were compared, and how many there are.
    """
    reader = TensorReader()
    pairs = list(_pairs(first, second))
    total = sum(one.numbers for _, one, other in pairs if one is not None and other is not None)
    done = 0
    found = []
    for name, one, other in pairs:
        found.append(_difference(name, one, other, reader))
        if one is not None and other is not None:
            done += one.numbers
            progress(done, total)
    order = ("only first", "only second", "shape", "changed", "same")
    return sorted(
        found,
        key=lambda d: (
            order.index(d.kind),
            -(math.inf if d.relative_change is None else d.relative_change),
            d.name,
        ),
    )


def _pairs(
    first: ModelFolder, second: ModelFolder
) -> Iterator[tuple[str, TensorInfo | None, TensorInfo | None]]:
    for key in dict.fromkeys([*first.parts, *second.parts]):
        left = first.parts[key].tensors if key in first.parts else {}
        right = second.parts[key].tensors if key in second.parts else {}
        for place in dict.fromkeys([*left, *right]):
            info = left.get(place) or right[place]
            name = info.name if key == ENCODER else f"{key.removesuffix('.pt')}.{info.name}"
            yield name, left.get(place), right.get(place)


def _difference(
    name: str, first: TensorInfo | None, second: TensorInfo | None, reader: TensorReader
) -> TensorDifference:
    shapes = (None if first is None else first.shape, None if second is None else second.shape)
    dtypes = (None if first is None else first.dtype, None if second is None else second.dtype)
    if first is None or second is None:
        return TensorDifference(name, "only second" if first is None else "only first", shapes, dtypes)
    if first.shape != second.shape:
        return TensorDifference(name, "shape", shapes, dtypes)
    sums = torch.zeros(4, dtype=torch.float64)  # of the squares of both, their product, their difference
    largest, same = 0.0, first.dtype == second.dtype
    for start in range(0, first.numbers, _CHUNK_NUMBERS):
        stop = min(start + _CHUNK_NUMBERS, first.numbers)
        left, right = reader.part(first, start, stop), reader.part(second, start, stop)
        same = same and torch.equal(left.view(torch.uint8), right.view(torch.uint8))
        one, other = left.double(), right.double()
        change = other - one
        sums += torch.stack([one @ one, other @ other, one @ other, change @ change])
        largest = max(largest, float(change.abs().max()))
    ours, theirs, product, changed = sums.tolist()
    relative = 0.0 if changed == 0 else math.sqrt(changed / ours) if ours else None
    cosine = product / math.sqrt(ours * theirs) if ours and theirs else None
    return TensorDifference(name, "same" if same else "changed", shapes, dtypes, relative, cosine, largest)
