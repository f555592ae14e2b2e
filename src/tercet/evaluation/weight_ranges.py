"""What weights lose in narrower formats, tensor by tensor from a checkpoint's files; no model is built."""

from __future__ import annotations

__all__ = ["FormatLoss", "Int8Loss", "TensorRange", "weight_ranges"]

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.layout import Checkpoint
from tercet.errors import InputError, PrecisionError
from tercet.precision.dtype import DType

# Numbers that are looked at at once: 8 MiB in float64, and a few such.
_BLOCK = 1 << 20
_LARGEST_CODE = 127


@dataclass(frozen=True, slots=True)
class FormatLoss:
    """What one tensor's finite weights lose when they are rounded to a floating-point format.

    Attributes:
        dtype: the format.
        overflow: weights that become infinite, or no number.
        zeroed: weights other than 0 that become 0.
        subnormal: weights that become subnormal: too small for the format's full precision.
        imprecise: weights whose relative error is above the bound that was asked for, with those that are
            zeroed and without those that overflow.
        worst_error: largest relative error of those that do not overflow; 1 where one is zeroed.
    """

    dtype: str
    overflow: int
    zeroed: int
    subnormal: int
    imprecise: int
    worst_error: float


@dataclass(frozen=True, slots=True)
class Int8Loss:
    """What the rows of a matrix lose in symmetric int8: codes from -127 to 127, a scale of the largest / 127.

    An error is the length of the difference over the length of what was rounded.

    Attributes:
        channel_mean, channel_worst: error of rows with a scale each (output channels of a linear layer).
        worst_channel: row of the worst.
        group_mean, group_worst: error of groups of neighbours within a row, with a scale each.
        group: how many neighbours make a group; the last of a row may be shorter.
        flushed: weights other than 0 that become 0 under their row's scale.
    """

    channel_mean: float
    channel_worst: float
    worst_channel: int
    group_mean: float
    group_worst: float
    group: int
    flushed: int


@dataclass(frozen=True, slots=True)
class TensorRange:
    """One tensor of a checkpoint.

    Attributes:
        name: as the checkpoint has it; of a module's file behind the file's place: "2_Dense/linear.weight".
        stored: its dtype in the file.
        shape: its sizes.
        numbers: how many weights it has.
        not_finite: how many of them are infinite or no number as they are stored; the rest leaves them out.
        largest, smallest: largest and smallest magnitude other than 0; 0 where there is none.
        formats: losses in each floating-point format that was asked for.
        int8: losses in int8; None for vectors and scalars, which are not quantised.
    """

    name: str
    stored: str
    shape: tuple[int, ...]
    numbers: int
    not_finite: int
    largest: float
    smallest: float
    formats: tuple[FormatLoss, ...]
    int8: Int8Loss | None

    def in_format(self, dtype: DType) -> FormatLoss:
        """The losses in one of the formats that were asked for."""
        for loss in self.formats:
            if loss.dtype == str(dtype):
                return loss
        known = ", ".join(loss.dtype for loss in self.formats) or "no format"
        raise InputError(
            f"{self.name} was looked at in {known}, not in {dtype}. Ask for it: weight_ranges(dtypes=...)."
        )

    def to_json(self) -> dict[str, Any]:
        """Field -> plain value."""
        return asdict(self)


def weight_ranges(
    checkpoint: Checkpoint,
    *,
    dtypes: Sequence[DType] = (DType.FLOAT16, DType.BFLOAT16),
    imprecise_above: float = 0.01,
    group: int = 64,
) -> Iterator[TensorRange]:
    """Each floating-point tensor of the encoder and the modules; one is read at a time, and given back.

    Args:
        checkpoint: its files.
        dtypes: floating-point formats.
        imprecise_above: relative error above which a weight counts as imprecise.
        group: neighbours in a row that share a scale of int8.

    Raises:
        PrecisionError: a dtype that is not floating-point.
        InputError: a bound below 0 or a group without members.
        CheckpointError: a file is gone or changed.
    """
    for dtype in dtypes:
        if not dtype.is_float:
            raise PrecisionError(f"{dtype} has scales, and is always looked at; leave it out of dtypes.")
    if not imprecise_above >= 0.0 or group < 1:
        raise InputError(
            f"imprecise_above is {imprecise_above} and group {group}; give a bound of at least 0 and a group "
            "of at least 1."
        )
    return _ranges(checkpoint, tuple(dtypes), imprecise_above, group)


def _ranges(
    checkpoint: Checkpoint, dtypes: tuple[DType, ...], bound: float, group: int
) -> Iterator[TensorRange]:
    named = list(checkpoint.tensors.items())
    named += [
        (f"{module.where}/{name}", info)
        for module in checkpoint.parts
        for name, info in module.tensors.items()
    ]
    for name, info in named:
        if info.is_float:
            yield _range(checkpoint, name, info, dtypes, bound, group)
            checkpoint.release(info)


def _range(
    checkpoint: Checkpoint, name: str, info: TensorInfo, dtypes: tuple[DType, ...], bound: float, group: int
) -> TensorRange:
    stored = checkpoint.stored(info)
    matrix = stored.reshape(len(stored), -1) if stored.ndim > 1 else stored.reshape(1, -1)
    formats = [_Format(dtype, bound) for dtype in dtypes]
    int8 = _Int8(group) if stored.ndim > 1 and stored.numel() else None
    largest, smallest, not_finite = 0.0, math.inf, 0
    for block in _blocks(matrix):
        exact = block.double()
        finite = torch.isfinite(exact)
        not_finite += int((~finite).sum())
        exact = torch.where(finite, exact, 0.0)
        magnitudes = exact.abs()
        largest = max(largest, float(magnitudes.max()))
        smallest = min(smallest, float(torch.where(magnitudes > 0.0, magnitudes, math.inf).min()))
        for loss in formats:
            # Cast from what is stored, as loading does: by way of float64 it would be rounded twice.
            loss.add(exact, block.to(loss.dtype.torch).double(), finite)
        if int8 is not None:
            int8.add(exact)
    return TensorRange(
        name=name,
        stored=info.dtype,
        shape=info.shape,
        numbers=info.numbers,
        not_finite=not_finite,
        largest=largest,
        smallest=0.0 if math.isinf(smallest) else smallest,
        formats=tuple(loss.result() for loss in formats),
        int8=None if int8 is None else int8.result(),
    )


def _blocks(matrix: Tensor) -> Iterator[Tensor]:
    """Whole rows, some at a time; of a single row, which has no scale of its own, parts."""
    if matrix.shape[0] == 1:
        yield from (part for part in torch.split(matrix, _BLOCK, dim=1) if part.numel())
    else:
        rows = max(1, _BLOCK // max(1, matrix.shape[1]))
        yield from (part for part in torch.split(matrix, rows) if part.numel())


class _Format:
    """Counts of one tensor in one format."""

    def __init__(self, dtype: DType, bound: float) -> None:
        self.dtype = dtype
        self._bound = bound
        self._overflow = self._zeroed = self._subnormal = self._imprecise = 0
        self._worst = 0.0

    def add(self, exact: Tensor, rounded: Tensor, finite: Tensor) -> None:
        """Some numbers, what they were rounded to, and which were finite."""
        kept = torch.isfinite(rounded)
        self._overflow += int((finite & ~kept).sum())
        there = finite & kept & (exact != 0.0)
        self._zeroed += int((there & (rounded == 0.0)).sum())
        small = rounded.abs() < self.dtype.smallest_normal
        self._subnormal += int((there & small & (rounded != 0.0)).sum())
        error = torch.where(there, (rounded - exact) / torch.where(there, exact, 1.0), 0.0).abs()
        self._imprecise += int((error > self._bound).sum())
        self._worst = max(self._worst, float(error.max()))

    def result(self) -> FormatLoss:
        return FormatLoss(
            str(self.dtype), self._overflow, self._zeroed, self._subnormal, self._imprecise, self._worst
        )


class _Int8:
    """Errors of one matrix in int8."""

    def __init__(self, group: int) -> None:
        self._group = group
        self._channels = _Errors()
        self._groups = _Errors()
        self._flushed = 0

    def add(self, rows: Tensor) -> None:
        """Some whole rows."""
        error, flushed = _int8_error(rows)
        self._flushed += flushed
        self._channels.add(error)
        padded = functional.pad(rows, (0, -rows.shape[1] % self._group))
        self._groups.add(_int8_error(padded.reshape(-1, self._group))[0])

    def result(self) -> Int8Loss:
        return Int8Loss(
            self._channels.mean,
            self._channels.worst,
            self._channels.worst_row,
            self._groups.mean,
            self._groups.worst,
            self._group,
            self._flushed,
        )


class _Errors:
    """Mean and worst of rows; those of zeros have no error, and count in no mean."""

    def __init__(self) -> None:
        self.worst, self.worst_row = 0.0, 0
        self._sum, self._count, self._rows = 0.0, 0, 0

    def add(self, errors: Tensor) -> None:
        there = ~torch.isnan(errors)
        self._sum += float(errors[there].sum())
        self._count += int(there.sum())
        known = errors.nan_to_num(0.0)
        row = int(known.argmax())
        if float(known[row]) > self.worst:
            self.worst, self.worst_row = float(known[row]), self._rows + row
        self._rows += len(errors)

    @property
    def mean(self) -> float:
        return self._sum / self._count if self._count else 0.0


def _int8_error(rows: Tensor) -> tuple[Tensor, int]:
    """(rows,) float64, the relative error of each, NaN of one of zeros; and how many weights became 0."""
    # In units of the scale, so that not even squares of the smallest weights underflow.
    scale = rows.abs().amax(dim=1, keepdim=True) / _LARGEST_CODE
    scaled = rows / torch.where(scale > 0.0, scale, 1.0)
    codes = torch.round(scaled)
    error = (codes - scaled).norm(dim=1) / scaled.norm(dim=1)
    return error, int(((codes == 0.0) & (rows != 0.0)).sum())
