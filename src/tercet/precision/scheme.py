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
    """One way to run the body: what its linear layers multiply, and how.

    Attributes:
        dtype: of the weights of linear layers, and of what they are multiplied with.
        accumulate: of the sums of products.
        group: so many weights along a sum share one scale; None where a whole row does, or nothing is scaled.
        engine: which one runs it.
        variant: its name where the dtype alone does not say it: "int8-fast", "tf32".
        between: of what flows between the linear layers, where that is another format than `dtype`.
    """

    dtype: DType
    accumulate: DType
    group: int | None
    engine: str
    variant: str | None = None
    between: DType | None = None

    @property
    def label(self) -> str:
        """What a user asks for it by: "float16", "int8-fast"."""
        return self.variant or self.dtype.label

    @property
    def compute(self) -> DType:
        """Format of what flows between the linear layers, and of the last hidden state."""
        return self.between or self.dtype

    @property
    def bounded_by(self) -> DType:
        """Format whose range what is computed has to stay in; 8 bits are scaled into theirs."""
        formats = [self.compute] if self.dtype.bytes == 1 else [self.dtype, self.compute]
        return min(formats, key=lambda dtype: dtype.max)

    @property
    def is_plain(self) -> bool:
        """Whether it multiplies in float32 or wider, with every bit: nothing to lose, nothing to overflow."""
        return self.variant is None and self.dtype in (DType.FLOAT32, DType.FLOAT64)

    @property
    def name(self) -> str:
        """Short and unique: "float16 (torch_packed)", "int8-fast (native_cpu)"."""
        return f"{self.label} ({self.engine})"

    def to_json(self) -> dict[str, Any]:
        """Field -> plain value."""
        return {
            "dtype": str(self.dtype),
            "accumulate": str(self.accumulate),
            "group": self.group,
            "engine": self.engine,
            "variant": self.variant,
            "between": None if self.between is None else str(self.between),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Scheme:
        """The inverse of `to_json`."""
        between = data["between"]
        return cls(
            DType.parse(data["dtype"]),
            DType.parse(data["accumulate"]),
            data["group"],
            data["engine"],
            data["variant"],
            None if between is None else DType.parse(between),
        )

    def __str__(self) -> str:
        return self.name
