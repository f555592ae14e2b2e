"""Headers of tensor files: names, dtypes, shapes and places, without reading one weight."""

from __future__ import annotations

__all__ = ["TensorInfo"]

from dataclasses import dataclass
from math import prod
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file.

    Attributes:
        name: as the file has it.
        dtype: torch's name of the stored dtype, e.g. "float16", "int64".
        shape: sizes, outermost first.
        file: the file that holds it.
        offset: where its bytes begin in the file, or None where the format hides it (torch files).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int | None

    @property
    def numbers(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)
