"""Vectors to what is stored and back: calibrated once, kept in a file, the same for every vector after it."""

from __future__ import annotations

__all__ = ["Quantizer", "StoredVectors"]

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import torch
from torch import Tensor

from tercet.errors import InputError, PrecisionError
from tercet.quantization import files
from tercet.quantization.bits import pack_signs, signs
from tercet.quantization.ranges import Ranges
from tercet.quantization.stored import (
    STORED_PRECISIONS,
    StoredPrecision,
    bytes_per_vector,
    numbers_per_vector,
    stored_precision,
)

logger = logging.getLogger(__name__)

# Rows that are worked on at once: in float64, 16 MiB of them.
_BLOCK = 1 << 21
_FEW_VECTORS = 100


@dataclass(frozen=True, slots=True, eq=False)
class StoredVectors:
    """What `Quantizer.encode` gives.

    Attributes:
        codes: (vectors, dim) float32, float16 or int8; (vectors, ceil(dim / 8)) int8 or uint8 for bits.
        clipped: values that lay outside the ranges of the calibration and took the nearest code.
    """

    codes: Tensor
    clipped: int

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True, slots=True, eq=False)
class Quantizer:
    """How dense or multi-vector rows are stored. Made by `fit` from data, or by `load`; never changed.

    Attributes:
        precision: "float32"; "float16"; "int8", calibrated from data; "binary", "ubinary": signs as bits.
        dim: width of the vectors.
        ranges: of each dimension, for int8 alone.
    """

    precision: StoredPrecision
    dim: int
    ranges: Ranges | None = None

    def __post_init__(self) -> None:
        stored_precision(self.precision)
        if self.dim < 1:
            raise InputError(f"dim is {self.dim}; give the width of the vectors, at least 1.")
        if self.ranges is not None and (self.precision != "int8" or len(self.ranges.low) != self.dim):
            raise InputError(
                f"Ranges of {len(self.ranges.low)} dimensions were given for {self.precision} of {self.dim}; "
                "only int8 takes them, one a dimension."
            )

    @classmethod
    def fit(cls, vectors: Tensor | Iterable[Tensor], precision: str) -> Quantizer:
        """The quantizer for vectors like these.

        Args:
            vectors: (vectors, dim), or parts of it, of which one is held at a time. Only int8 looks at the
                values; give it a sample of what will be stored.
            precision: "float32", "float16", "int8", "binary" or "ubinary".

        Raises:
            UnknownNameError: another precision.
            InputError: there are no vectors, too few for int8, or some that are not finite.
        """
        found = stored_precision(precision)
        parts = _checked([vectors] if isinstance(vectors, Tensor) else vectors)
        first = next(parts, None)
        if first is None:
            raise InputError(
                "There are no vectors to fit a quantizer to. Give at least one part (vectors, dim)."
            )
        dim = int(first.shape[1])
        if found != "int8":
            return cls(found, dim)
        ranges = Ranges.of(_chained(first, parts))
        if ranges.vectors < _FEW_VECTORS:
            logger.warning(
                "int8 was calibrated with %d vectors; values of others will often lie outside. "
                "Give a few thousand.",
                ranges.vectors,
            )
        return cls(found, dim, ranges)

    @classmethod
    def load(cls, path: str | Path) -> Quantizer:
        """The quantizer that `save` wrote.

        Raises:
            InputError: the file is missing, damaged, or not a quantizer.
        """
        precision, dim, ranges = files.read(Path(path))
        return cls(precision, dim, ranges)

    def save(self, path: str | Path) -> Path:
        """The file, a .safetensors with the ranges and the settings as JSON in its header.

        Raises:
            OutputError: it cannot be written; what was there before stays.
        """
        self._check_calibrated()
        return files.write(Path(path), self.precision, self.dim, self.ranges)

    def __repr__(self) -> str:
        calibrated = f", calibrated with {self.ranges.vectors:,} vectors" if self.ranges is not None else ""
        return (
            f"Quantizer({self.precision}, {self.dim} dimensions, {self.bytes_per_vector} bytes{calibrated})"
        )

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of one stored vector, without what an index adds to it."""
        return bytes_per_vector(self.precision, self.dim)

    def encode(self, vectors: Tensor) -> StoredVectors:
        """The vectors (vectors, dim) as they are stored.

        Raises:
            PrecisionError: int8 without a calibration, or a value too large for float16.
            InputError: another width, or values that are not finite.
        """
        self._check_calibrated()
        width = numbers_per_vector(self.precision, self.dim)
        dtype = STORED_PRECISIONS[self.precision]
        codes = torch.empty(
            vectors.shape[0] if vectors.ndim else 0, width, dtype=dtype, device=vectors.device
        )
        clipped = row = 0
        for part in _checked(_blocks(vectors), dim=self.dim):
            codes[row : row + len(part)], outside = self._encoded(part, row)
            clipped += outside
            row += len(part)
        return StoredVectors(codes, clipped)

    def decode(self, codes: Tensor) -> Tensor:
        """(vectors, dim) float32, the vectors that stored ones stand for.

        int8 gives the centres of the bins; bits give 1 and -1 over the root of `dim`, a unit vector.
        """
        self._check_calibrated()
        shape, dtype = (
            (len(codes), numbers_per_vector(self.precision, self.dim)),
            STORED_PRECISIONS[self.precision],
        )
        if tuple(codes.shape) != shape or codes.dtype != dtype:
            raise InputError(
                f"Vectors of {self.dim} dimensions are stored in {self.precision} as {shape} {dtype}, not as "
                f"{tuple(codes.shape)} {codes.dtype}. Decode with the quantizer that encoded them."
            )
        if self.ranges is not None:
            decoded = torch.empty(codes.shape, dtype=torch.float32, device=codes.device)
            rows = _block_rows(self.dim)
            for first in range(0, len(codes), rows):
                decoded[first : first + rows] = self.ranges.decode(codes[first : first + rows])
            return decoded
        if self.precision in ("binary", "ubinary"):
            return signs(codes, self.dim) / sqrt(self.dim)
        return codes.float()

    def _encoded(self, part: Tensor, first: int) -> tuple[Tensor, int]:
        """Some rows, of which the first has the number `first`, and how many values were clipped."""
        if self.ranges is not None:
            return self.ranges.encode(part)
        if self.precision in ("binary", "ubinary"):
            return pack_signs(part, signed=self.precision == "binary"), 0
        dtype = STORED_PRECISIONS[self.precision]
        codes = part.to(dtype)
        if not bool(torch.isfinite(codes).all()):
            row, column = (int(place) for place in (~torch.isfinite(codes)).nonzero()[0])
            raise PrecisionError(
                f"vector {first + row} holds {part[row, column].item():g} in dimension {column}, which is "
                f"infinite in {self.precision} (largest {torch.finfo(dtype).max:g}). Normalise the vectors, "
                "or store float32."
            )
        return codes, 0

    def _check_calibrated(self) -> None:
        if self.precision == "int8" and self.ranges is None:
            raise PrecisionError(
                "This int8 quantizer has no ranges: codes of vectors that were scaled one by one cannot be "
                "compared. Calibrate it once: Quantizer.fit(a sample of the vectors, 'int8'), and save it."
            )


def _block_rows(dim: int) -> int:
    return max(1, _BLOCK // max(1, dim))


def _blocks(vectors: Tensor) -> Iterator[Tensor]:
    """The rows some at a time; what is not a matrix goes on whole, to be refused."""
    if vectors.ndim != 2:
        yield vectors
        return
    rows = _block_rows(vectors.shape[1])
    for first in range(0, len(vectors), rows):
        yield vectors[first : first + rows]


def _checked(parts: Iterable[Tensor], dim: int | None = None) -> Iterator[Tensor]:
    """The parts, each found to be (vectors, dim) of finite floating-point numbers."""
    done = 0
    for part in parts:
        if part.ndim != 2 or part.shape[1] == 0 or not part.is_floating_point():
            raise InputError(
                f"Vectors to store must be (vectors, dim) of floating-point numbers, not {tuple(part.shape)} "
                f"{part.dtype}."
            )
        if dim is not None and part.shape[1] != dim:
            raise InputError(
                f"The vectors have {part.shape[1]} dimensions, the quantizer {dim}. Fit another one."
            )
        if not bool(torch.isfinite(part).all()):
            row = int((~torch.isfinite(part).all(dim=1)).nonzero()[0])
            raise InputError(f"vector {done + row} has a value that is not finite. Embed that text anew.")
        dim = int(part.shape[1])
        done += len(part)
        yield part


def _chained(first: Tensor, rest: Iterator[Tensor]) -> Iterator[Tensor]:
    yield first
    yield from rest
