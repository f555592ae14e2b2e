"""A merge carried out: each tensor chunk by chunk from the files of its models into those of the result."""

from __future__ import annotations

__all__ = ["run_merge"]

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from tercet.checkpoint.tensors import TensorReader
from tercet.checkpoint.writer import WritePart, open_tensors
from tercet.errors import CheckpointError, PrecisionError
from tercet.merging.derived import read_part
from tercet.merging.method import Chunk
from tercet.merging.planning import MergePlan, PlannedTensor
from tercet.merging.report import MergeReport, TensorReport
from tercet.merging.rounding import rounded
from tercet.merging.streaming import chunk_bounds, merge_chunks

_SHARD_BYTES = 5_000_000_000
_COPIED = 1 << 20  # numbers at a time
T = TypeVar("T")


def run_merge(
    plan: MergePlan,
    folder: Path,
    *,
    allow_overflow: bool = False,
    max_shard_bytes: int = _SHARD_BYTES,
    progress: Callable[[int], None] = lambda written: None,
) -> MergeReport:
    """The report, after all weights of the result were written into `folder`.

    Arithmetic is in float64 and rounded once; a chunk of every input is in memory at a time, and the next one
    is read meanwhile.

    Args:
        plan: what to do.
        folder: of the result, as `write_aside` gives it; settings are written elsewhere.
        allow_overflow: write the largest number of the format for what is beyond it, and count it, instead of
            refusing.
        max_shard_bytes: most bytes of tensors in one file.
        progress: told the bytes written so far.

    Raises:
        PrecisionError: a result is no number, or beyond the range of the format that it is written in.
        CheckpointError: a file changed, or buffers of integers differ.
    """
    reader = TensorReader()
    reports: list[TensorReport] = []
    written = 0
    for key in dict.fromkeys(tensor.part for tensor in plan.tensors):
        tensors = [tensor for tensor in plan.tensors if tensor.part == key]
        path = _path(plan, key)
        with ExitStack() as opened:
            write: WritePart
            if path.endswith(".pt"):
                # two small tensors a head, which its format wants at once
                held = {t.name: torch.empty(t.task.shape, dtype=getattr(torch, t.dtype)) for t in tensors}
                opened.callback(torch.save, held, folder / path)
                write = _into(held)
            else:
                place = folder / path
                place.mkdir(parents=True, exist_ok=True)
                layout = {t.name: (t.dtype, t.task.shape) for t in tensors}
                write, _ = opened.enter_context(open_tensors(place, layout, max_shard_bytes=max_shard_bytes))
            for tensor in tensors:
                for part in _one(tensor, reader, write, allow_overflow, reports):
                    written += part
                    progress(written)
    return MergeReport(tuple(reports), plan.notes)


def _path(plan: MergePlan, key: str) -> str:
    """Where a part lies in the result: where the donor has it, else where the first model does."""
    return next(m.parts[key].path for m in (plan.donor, *plan.models.values()) if key in m.parts)


def _into(held: dict[str, Tensor]) -> WritePart:
    def write(name: str, first: int, numbers: Tensor) -> None:
        held[name].view(-1)[first : first + numbers.numel()] = numbers.reshape(-1)

    return write


def _one(
    tensor: PlannedTensor,
    reader: TensorReader,
    write: WritePart,
    allow_overflow: bool,
    reports: list[TensorReport],
) -> Iterator[int]:
    """Writes a tensor; gives the bytes of each chunk, and at the end adds its report."""
    if tensor.method is None or not tensor.task.numbers:
        yield from _copied(tensor, reader, write)
        reports.append(TensorReport(tensor.shown, tensor.dtype, tensor.task.numbers, copied=True))
        return
    dtype = getattr(torch, tensor.dtype)
    largest = torch.finfo(dtype).max
    sums = torch.zeros(3, dtype=torch.float64)
    overflowed = flushed = 0
    on_threshold: list[int] = []
    read = partial(_chunks, tensor, reader)
    for chunk, exact in merge_chunks(tensor.method, tensor.task, read, on_threshold.append):
        if not exact.isfinite().all():
            raise PrecisionError(
                f"{tensor.shown}: {int((~exact.isfinite()).sum()):,} results of {tensor.method.name} are no "
                "numbers (NaN or infinite), of inputs that are. Change its parameters. Nothing was written."
            )
        made = rounded(exact, dtype)
        beyond = made.isinf()
        count = int(beyond.sum())
        if count and not allow_overflow:
            raise PrecisionError(
                f"{tensor.shown}: {count:,} results such as {float(exact[beyond].abs().max()):g} are beyond "
                f"the range of {tensor.dtype} (largest {largest:g}). Set out_dtype: bfloat16 or float32, or "
                "allow it with allow_overflow (--allow-overflow): the largest number is written then. "
                "Nothing was written."
            )
        if count:
            made = torch.where(beyond, exact.sign().to(dtype) * largest, made)
        overflowed += count
        flushed += int(((made == 0) & (exact != 0)).sum())
        reference = chunk.inputs[0] if chunk.base is None else chunk.base
        errors = (exact, exact - reference, made.double() - exact)
        sums += torch.stack([values.square().sum() for values in errors])
        write(tensor.name, chunk.first, made)
        yield made.numel() * made.element_size()
    squares, delta, error = sums.tolist()
    reports.append(
        TensorReport(
            tensor.shown,
            tensor.dtype,
            tensor.task.numbers,
            squares,
            delta,
            error,
            overflowed,
            flushed,
            sum(on_threshold),
        )
    )


def _chunks(tensor: PlannedTensor, reader: TensorReader) -> Iterator[Chunk]:
    """The chunks in float64, the next one read while one is worked on."""
    assert tensor.method is not None
    width = tensor.method.width(tensor.task)
    shape = (-1, width) if width else (1, -1)

    def read(part: slice) -> Chunk:
        found = []
        for info in tensor.sources:
            numbers = read_part(reader, info, part.start, part.stop).double()
            # some methods would leave such numbers out without a word
            if not numbers.sum().isfinite() and not numbers.isfinite().all():
                raise PrecisionError(
                    f"{tensor.shown}: {int((~numbers.isfinite()).sum()):,} numbers of {info.file} are not "
                    "finite (NaN or infinite): it was saved after an overflow. Take another copy of the "
                    "model. Nothing was written."
                )
            found.append(numbers.reshape(shape))
        base = None if tensor.base is None else found.pop()
        return Chunk(tuple(found), base, part.start)

    return _ahead(read, chunk_bounds(tensor.method, tensor.task, len(tensor.sources)))


def _ahead(read: Callable[[slice], T], parts: Iterable[slice]) -> Iterator[T]:
    """What was read of each part, one ahead."""
    waiting = list(parts)
    if len(waiting) < 2:
        yield from map(read, waiting)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="tercet-merge") as thread:
        coming = thread.submit(read, waiting[0])
        for part in waiting[1:]:
            found = coming.result()
            coming = thread.submit(read, part)
            yield found
        yield coming.result()


def _copied(tensor: PlannedTensor, reader: TensorReader, write: WritePart) -> Iterator[int]:
    """A buffer, after it was compared in all models that have it."""
    first = tensor.inputs[0]
    for start in range(0, tensor.task.numbers, _COPIED):
        stop = min(start + _COPIED, tensor.task.numbers)
        numbers = reader.part(first, start, stop)
        for other in tensor.inputs[1:]:
            if not torch.equal(numbers, reader.part(other, start, stop)):
                raise CheckpointError(
                    f"{tensor.shown} has whole numbers that differ in {first.file} and {other.file}: they "
                    "are copied, not merged. Make them the same, or remove the tensor."
                )
        write(tensor.name, start, numbers)
        yield numbers.numel() * numbers.element_size()
