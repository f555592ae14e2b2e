"""Number formats: names, sizes, ranges, rounding, and every spelling that users bring."""

from __future__ import annotations

__all__ = ["DType", "Precision", "Wish"]

from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

from tercet.errors import PrecisionError, nearest

if TYPE_CHECKING:
    import torch

_SPELLINGS = {
    "float64": ("float64", "fp64", "f64", "double", "torch.float64", "torch.double"),
    "float32": ("float32", "fp32", "f32", "float", "single", "full", "32", "torch.float32", "torch.float"),
    "bfloat16": ("bfloat16", "bf16", "brain", "torch.bfloat16"),
    "float16": ("float16", "fp16", "f16", "half", "16", "torch.float16", "torch.half"),
    "float8_e4m3fn": ("float8", "fp8", "f8", "e4m3", "float8_e4m3fn", "torch.float8_e4m3fn"),
    "int8": ("int8", "i8", "s8", "torch.int8"),
}
_BY_SPELLING = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings}
# Ways to compute that are more than a dtype: name -> the dtype of what is multiplied, and other spellings.
_VARIANTS = {
    "int8-fast": ("int8", ("int8fast", "int8_fast", "i8fast", "fastint8")),
    "tf32": ("float32", ("tf32", "tensorfloat32")),
}
_BY_VARIANT = {spelling: name for name, (_, spellings) in _VARIANTS.items() for spelling in spellings}


class DType(Enum):
    """A number format that weights, arithmetic or results can have. The value is torch's and NumPy's name."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT8 = "float8_e4m3fn"
    INT8 = "int8"

    @property
    def label(self) -> str:
        """What people call it: the value, but "float8" for the one format of 8 bits that is meant by it."""
        return "float8" if self is DType.FLOAT8 else self.value

    @property
    def bytes(self) -> int:
        """Bytes of one number."""
        return {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "int8": 1}[
            self.value
        ]

    @property
    def is_float(self) -> bool:
        """Whether it is a floating-point format."""
        return self is not DType.INT8

    @property
    def max(self) -> float:
        """The largest finite number."""
        return {
            "float64": 1.7976931348623157e308,
            "float32": 3.4028234663852886e38,
            "bfloat16": 3.3895313892515355e38,
            "float16": 65504.0,
            "float8_e4m3fn": 448.0,
            "int8": 127.0,
        }[self.value]

    @property
    def smallest_normal(self) -> float:
        """The smallest positive number with full precision (IEEE 754; 1 for integers)."""
        return {
            "float64": 2.0**-1022,
            "float32": 2.0**-126,
            "bfloat16": 2.0**-126,
            "float16": 2.0**-14,
            "float8_e4m3fn": 2.0**-6,
            "int8": 1.0,
        }[self.value]

    @property
    def unit_roundoff(self) -> float:
        """Largest relative error of rounding to nearest; for int8, half a step of its largest code."""
        return {
            "float64": 2.0**-53,
            "float32": 2.0**-24,
            "bfloat16": 2.0**-8,
            "float16": 2.0**-11,
            "float8_e4m3fn": 2.0**-4,
            "int8": 0.5 / 127,
        }[self.value]

    @property
    def torch(self) -> torch.dtype:
        """The same format in torch."""
        import torch

        found = getattr(torch, self.value)
        assert isinstance(found, torch.dtype)
        return found

    @classmethod
    def parse(cls, value: object) -> DType:
        """The format that a name, a torch.dtype, a NumPy dtype or a DType means.

        Raises:
            PrecisionError: the spelling is not known; the message names the nearest.
        """
        if isinstance(value, cls):
            return value
        spelling = _spelling(value)
        if spelling not in _BY_SPELLING:
            raise PrecisionError(f"{value!r} is not a dtype. {nearest(spelling, _SPELLINGS)}")
        return cls(_BY_SPELLING[spelling])

    def __str__(self) -> str:
        return self.value


def _spelling(value: object) -> str:
    """What to look up for a name, a torch dtype, a NumPy dtype or scalar type."""
    if isinstance(value, type):
        return value.__name__.lower()
    return str(getattr(value, "name", value)).strip().lower().replace("-", "")


@dataclass(frozen=True, slots=True)
class Precision:
    """Which format runs where: the weights, the arithmetic of the body, the heads, and what comes out."""

    weights: DType
    compute: DType
    heads: DType = DType.FLOAT32
    output: DType = DType.FLOAT32

    @classmethod
    def parse(cls, value: object) -> Precision:
        """The same format for weights and arithmetic, float32 for the heads and the output."""
        if isinstance(value, cls):
            return value
        dtype = DType.parse(value)
        return cls(weights=dtype, compute=dtype)

    def to_json(self) -> dict[str, str]:
        """Field -> dtype name."""
        return {field.name: str(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Precision:
        """The inverse of `to_json`."""
        return cls(**{key: DType.parse(value) for key, value in data.items()})

    def __str__(self) -> str:
        return f"{self.weights} weights, {self.compute} arithmetic, {self.heads} heads, {self.output} out"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user asked for: "auto" (measure and choose), "checkpoint" (as stored), a dtype or a variant.

    Attributes:
        kind: which of these.
        dtype: of the numbers that are multiplied, where it is explicit.
        variant: the name of a way to compute that a dtype alone does not say: "int8-fast", "tf32".
    """

    kind: Literal["auto", "checkpoint", "explicit"]
    dtype: DType | None = None
    variant: str | None = None

    @classmethod
    def parse(cls, value: object) -> Wish:
        """The wish that "auto", "checkpoint", None (auto), or any spelling of a dtype or variant means."""
        if isinstance(value, cls):
            return value
        spelling = "auto" if value is None else _spelling(value)
        if spelling == "auto":
            return cls("auto")
        if spelling in ("checkpoint", "stored"):
            return cls("checkpoint")
        if (variant := _BY_VARIANT.get(spelling)) is not None:
            return cls("explicit", DType(_VARIANTS[variant][0]), variant)
        if spelling not in _BY_SPELLING:
            known = [*(dtype.label for dtype in DType), *_VARIANTS, "auto", "checkpoint"]
            raise PrecisionError(f"{value!r} is not a precision. {nearest(spelling, known)}")
        return cls("explicit", DType(_BY_SPELLING[spelling]))

    @property
    def label(self) -> str:
        """What the user would type for it."""
        return self.variant or (self.kind if self.dtype is None else self.dtype.label)

    def __str__(self) -> str:
        return self.label
