"""One tensor at a time: mapped from its file, cast while reading, pages given back."""

from __future__ import annotations

__all__ = ["TensorReader"]

import ctypes
import mmap
import os
import sys
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.listed import ListedWeights
from tercet.checkpoint.torch_file import load_torch_file, torch_format
from tercet.errors import CheckpointError, PrecisionError
from tercet.precision.dtype import DType

# A cast touches this much of the source at a time, so even one huge table needs no second copy of itself.
_CHUNK_BYTES = 8 << 20
_DONTNEED = 4  # MADV_DONTNEED, the same number on Linux and macOS


class TensorReader:
    """Reads tensors of files and keeps the files mapped between reads.

    May be used from several threads, and after fork and pickle, where files are mapped again when needed.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._maps: dict[Path, mmap.mmap] = {}
        self._torch_files: dict[Path, Mapping[str, Tensor]] = {}
        self._legacy: dict[Path, dict[str, Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._forget()

    def read(self, info: TensorInfo, dtype: DType) -> Tensor:
        """The tensor on the CPU in `dtype`.

        Where nothing is cast it is a view of the mapped file (private: writing to it never reaches the disk).
        Where it is cast, the source's pages are given back as it goes.

        Raises:
            CheckpointError: the file changed since its header was read, or integers were asked for as floats.
            PrecisionError: a finite number becomes infinite in `dtype`.
        """
        target = dtype.torch
        source, mapped = self._source(info)
        if source.dtype == target:
            return source
        if not info.is_float or not dtype.is_float:
            raise CheckpointError(
                f"{info.file}: {info.name!r} is stored as {info.dtype} and was asked for as {dtype}; only "
                "floating-point numbers are converted. Use a checkpoint with floating-point weights."
            )
        return _cast(source, info, target, mapped)

    def stored(self, info: TensorInfo) -> Tensor:
        """The tensor on the CPU exactly as it is stored."""
        return self._source(info)[0]

    def part(self, info: TensorInfo, start: int, stop: int) -> Tensor:
        """Some numbers of the flattened tensor as stored: a copy; the pages of the file are given back.

        Raises:
            CheckpointError: the file is gone or changed.
        """
        source, mapped = self._source(info)
        view = source.reshape(-1)[start:stop]
        made = view.clone()
        if mapped:
            _give_back(view)
        return made

    def release(self, info: TensorInfo) -> None:
        """Give back the memory pages of a tensor that was copied; reading it again reads the file."""
        if info.file in self._maps or info.file in self._torch_files:
            source, mapped = self._source(info)
            if mapped:
                _give_back(source)

    def close(self) -> None:
        """Forget the open files; tensors that were given out stay valid, and reading opens files again."""
        self._forget()

    def _source(self, info: TensorInfo) -> tuple[Tensor, bool]:
        """The stored tensor, and whether it is a view of a mapped file."""
        if self._process != os.getpid():
            # The lock may have been held by a thread that does not exist in this child.
            self._forget()
        if info.file.suffix == ".safetensors":
            return self._from_safetensors(info), True
        if isinstance(info, ListedWeights):
            return info.values(), False
        if torch_format(info.file) == "torch":
            with self._lock:
                if info.file not in self._torch_files:
                    self._torch_files[info.file] = load_torch_file(info.file, "cpu")
                source = self._torch_files[info.file].get(info.name)
            return _checked(source, info), True
        with self._lock:
            # Each tensor leaves the table as it is read: what was converted is not held twice.
            source = self._legacy.get(info.file, {}).pop(info.name, None)
            if source is None:
                self._legacy[info.file] = dict(load_torch_file(info.file, "cpu"))
                source = self._legacy[info.file].pop(info.name, None)
            if not self._legacy[info.file]:
                del self._legacy[info.file]
        return _checked(source, info), False

    def _from_safetensors(self, info: TensorInfo) -> Tensor:
        assert info.offset is not None
        dtype = getattr(torch, info.dtype)
        if info.numbers == 0:
            return torch.empty(info.shape, dtype=dtype)
        with self._lock:
            if info.file not in self._maps:
                self._maps[info.file] = _map(info.file)
            mapped = self._maps[info.file]
        if info.offset + info.num_bytes > len(mapped):
            raise _changed(info)
        if info.offset % dtype.itemsize:
            # Files from before headers were padded: kernels expect aligned numbers, so these are copied.
            raw = torch.frombuffer(mapped, dtype=torch.uint8, count=info.num_bytes, offset=info.offset)
            return raw.clone().view(dtype).view(info.shape)
        return torch.frombuffer(mapped, dtype=dtype, count=info.numbers, offset=info.offset).view(info.shape)


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            # Copy on write: torch may hold it as a writable tensor, the file stays as it is.
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be mapped: {error}. Was it moved or removed?") from error


def _checked(source: Tensor | None, info: TensorInfo) -> Tensor:
    if source is None or tuple(source.shape) != info.shape or str(source.dtype) != f"torch.{info.dtype}":
        raise _changed(info)
    return source


def _changed(info: TensorInfo) -> CheckpointError:
    return CheckpointError(
        f"{info.file}: {info.name!r} is no longer what the header said; the file changed while in use. "
        "Load the model again."
    )


def _cast(source: Tensor, info: TensorInfo, dtype: torch.dtype, mapped: bool) -> Tensor:
    """The tensor in another float format, chunk by chunk; the pages of each chunk are given back."""
    if not source.is_contiguous():
        source, mapped = source.contiguous(), False
    made = torch.empty(source.shape, dtype=dtype)
    flat_source, flat_made = source.view(-1), made.view(-1)
    step = max(1, _CHUNK_BYTES // source.element_size())
    for start in range(0, flat_source.numel(), step):
        before, after = flat_source[start : start + step], flat_made[start : start + step]
        after.copy_(before)
        _check_range(before, after, info)
        if mapped:
            _give_back(before)
    return made


def _check_range(before: Tensor, after: Tensor, info: TensorInfo) -> None:
    """Refuse a cast that made a finite number infinite."""
    limit = torch.finfo(after.dtype).max
    if limit >= torch.finfo(before.dtype).max:
        return
    if before.dtype.itemsize > 1:
        low, high = torch.aminmax(before)
        # False for a NaN, too: such tensors take the slow way.
        if low >= -limit and high <= limit:
            return
    lost = after.isinf() & ~before.isinf()
    if lost.any():
        raise PrecisionError(
            f"{info.file}: {info.name!r} holds {before[lost].abs().max().item():g}, which is infinite in "
            f"{str(after.dtype).removeprefix('torch.')} (largest {limit:g}). "
            "Load this model in bfloat16 or float32."
        )


def _give_back(view: Tensor) -> None:
    """Drop the pages that lie wholly in this part of a mapped file: reading them again reads the file."""
    advise = _madvise()
    if advise is None or not view.is_contiguous():
        return
    page = mmap.PAGESIZE
    # Inwards: a page shared with a neighbour may hold what someone wrote there.
    first = -(-view.data_ptr() // page) * page
    end = (view.data_ptr() + view.numel() * view.element_size()) // page * page
    if end > first:
        advise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), ctypes.c_int(_DONTNEED))


@cache
def _madvise() -> Any:
    """The C library's madvise, or None on platforms without it, where pages simply stay."""
    if sys.platform == "win32":
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), "madvise", None)
