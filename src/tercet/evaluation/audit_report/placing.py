"""Where labels go so that none lies on another."""

from __future__ import annotations

__all__ = ["Box", "apart", "place_labels"]

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle, in any unit."""

    left: float
    bottom: float
    width: float
    height: float

    def touches(self, other: Box) -> bool:
        """Whether they share any area."""
        return (
            self.left < other.left + other.width
            and other.left < self.left + self.width
            and self.bottom < other.bottom + other.height
            and other.bottom < self.bottom + self.height
        )

    def within(self, other: Box) -> bool:
        """Whether no part is outside of the other."""
        return (
            other.left <= self.left
            and other.bottom <= self.bottom
            and self.left + self.width <= other.left + other.width
            and self.bottom + self.height <= other.bottom + other.height
        )


def apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Positions at least `gap` from each other, in the order wanted, moved no further than needed.

    Those that crowd become a block around their mean (pooling of adjacent violators, Barlow et al. 1972).
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    # Behind equal steps, "at least gap apart" is "not falling": each block is its sum and its length.
    blocks: list[tuple[float, int]] = []
    for rank, index in enumerate(order):
        blocks.append((wanted[index] - rank * gap, 1))
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            last, before = blocks.pop(), blocks.pop()
            blocks.append((before[0] + last[0], before[1] + last[1]))
    level = [total / length for total, length in blocks for _ in range(length)]
    placed = [0.0] * len(wanted)
    for rank, index in enumerate(order):
        placed[index] = level[rank] + rank * gap
    return placed


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    room: Box,
    mark: float,
    avoid: Sequence[Box] = (),
) -> list[Box] | None:
    """A box for the label of each point, near it: on no other label, no mark, and inside of `room`.

    Args:
        points: centres of the marks.
        sizes: (width, height) of each label.
        room: where labels may lie.
        mark: half the width of a mark.
        avoid: what else no label may lie on.

    Returns:
        None where no such place was found for some label.
    """
    marks = [Box(x - mark, y - mark, 2 * mark, 2 * mark) for x, y in points]
    placed: dict[int, Box] = {}
    # From the right, where the long labels have least room.
    for index in sorted(range(len(points)), key=lambda at: -points[at][0]):
        for box in _around(points[index], sizes[index], mark):
            if box.within(room) and not any(map(box.touches, [*marks, *avoid, *placed.values()])):
                placed[index] = box
                break
        else:
            return None
    return [placed[index] for index in range(len(points))]


def _around(point: tuple[float, float], size: tuple[float, float], mark: float) -> list[Box]:
    """Boxes around a point, the preferred one first: right, left, above, below, then further off."""
    (x, y), (width, height) = point, size
    boxes = []
    for step in range(7):
        away = mark * 1.5 + step * height * 0.75
        for angle in (0, 180, 90, 270, 35, 145, 325, 215):
            along, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            middle = (x + along * (away + width / 2), y + up * (away + height / 2))
            boxes.append(Box(middle[0] - width / 2, middle[1] - height / 2, width, height))
    return boxes
