"""Schemes: one way to run the body of an encoder, the key of everything that is measured."""

from __future__ import annotations

__all__ = ["Drift", "Scheme"]

from dataclasses import dataclass
from typing import Any

from tercet.precision.dtype import DType


@dataclass(frozen=True, slots=True)
class Drift:
    """How far dense vectors move from float32 on real texts, and where that was measured.

    Attributes:
        mean: mean of 1 - cosine.
        worst: largest 1 - cosine.
        source: the model, the texts and the date or version behind the figures.
    """

    mean: float
    worst: float
    source: str

    @property
    def invisible(self) -> bool:
        """The class "no visible loss": mean 1 - cosine <= 5e-6 and worst <= 5e-5."""
        return self.mean <= 5e-6 and self.worst <= 5e-5

    def to_json(self) -> dict[str, Any]:
        """Field -> plain value."""
        return {"mean": self.mean, "worst": self.worst, "source": self.source}


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to run the body: number format, accumulator, group size of quantised weights, engine."""

    dtype: DType
    accumulate: DType
    group: int | None
    engine: str

    @property
    def name(self) -> str:
        """Short and unique: "float16 (torch_packed)"."""
        return f"{self.dtype} ({self.engine})"

    def to_json(self) -> dict[str, Any]:
        """Field -> plain value."""
        return {
            "dtype": str(self.dtype),
            "accumulate": str(self.accumulate),
            "group": self.group,
            "engine": self.engine,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Scheme:
        """The inverse of `to_json`."""
        return cls(DType.parse(data["dtype"]), DType.parse(data["accumulate"]), data["group"], data["engine"])

    def __str__(self) -> str:
        return self.name
