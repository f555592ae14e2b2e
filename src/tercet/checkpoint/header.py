"""Headers of tensor files: names, dtypes, shapes and places, without reading one weight."""

from __future__ import annotations

__all__ = ["DTYPE_NAMES", "SAFETENSORS_DTYPES", "TensorInfo", "parse_safetensors", "read_header"]

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from tercet.errors import CheckpointError

# The bound that the reference implementation has.
_MAX_HEADER_BYTES = 100_000_000
_LFS_POINTER = b"version https://git-lfs"

# name in a safetensors header -> torch's name, bytes of one number
SAFETENSORS_DTYPES: Mapping[str, tuple[str, int]] = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
DTYPE_NAMES: Mapping[str, str] = {ours: theirs for theirs, (ours, _) in SAFETENSORS_DTYPES.items()}
_BYTES = dict(SAFETENSORS_DTYPES.values())


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

    @property
    def num_bytes(self) -> int:
        """How many bytes they take as stored."""
        return self.numbers * _BYTES[self.dtype]

    @property
    def is_float(self) -> bool:
        """Whether its numbers are floating-point."""
        return self.dtype.startswith(("float", "bfloat"))


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Every tensor of a .safetensors file, in the order of its bytes.

    Raises:
        CheckpointError: the file is missing, cut off, or its header contradicts itself or the file's size.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
            if start == _LFS_POINTER:
                raise CheckpointError(
                    f"{path} is a Git LFS pointer, not the weights. Run 'git lfs pull' in its folder."
                )
            length = int.from_bytes(start[:8], "little")
            if len(start) < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                raise _damaged(
                    path, f"its first 8 bytes announce a header of {length:,} bytes, the file has {size:,}"
                )
            file.seek(8)
            header = file.read(length)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing. Fetch the model again.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    return parse_safetensors(path, header, size)


def parse_safetensors(path: Path, header: bytes, size: int) -> dict[str, TensorInfo]:
    """Every tensor that a header describes, checked against each other and the size of the whole file.

    Args:
        path: where the file is or will be.
        header: the JSON, without the 8 bytes of its length.
        size: bytes of the whole file.
    """
    try:
        entries = json.loads(header, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not what the format says ({error})") from error
    if not isinstance(entries, dict):
        raise _damaged(path, "its header is not a JSON object")
    entries.pop("__metadata__", None)
    begin = 8 + len(header)
    found = [_tensor(path, name, entry, begin) for name, entry in entries.items()]
    found.sort(key=lambda pair: (pair[0].offset or 0, pair[1]))
    reached = begin
    for info, end in found:
        if info.offset != reached:
            raise _damaged(
                path,
                f"tensor {info.name!r} begins at byte {info.offset:,}, the one before it ends at {reached:,}",
            )
        reached = end
    if reached != size:
        what = "it is cut off" if reached > size else "bytes follow that belong to no tensor"
        raise _damaged(path, f"{what}: its tensors end at byte {reached:,}, the file at {size:,}")
    return {info.name: info for info, _ in found}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys must differ: the last of two equal names would silently win."""
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise ValueError(f"the name {twice!r} is there twice")
    return made


def _tensor(path: Path, name: str, entry: Any, begin: int) -> tuple[TensorInfo, int]:
    """One entry of the header and the byte where it ends."""
    if not isinstance(entry, dict):
        raise _damaged(path, f"the entry of tensor {name!r} is not a JSON object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in SAFETENSORS_DTYPES:
        raise _damaged(path, f"tensor {name!r} has the unknown dtype {dtype!r}")
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        raise _damaged(path, f"tensor {name!r} has no valid shape")
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(place) is int for place in offsets)
        or not 0 <= offsets[0] <= offsets[1]
    ):
        raise _damaged(path, f"tensor {name!r} has no valid data_offsets")
    ours, width = SAFETENSORS_DTYPES[dtype]
    if offsets[1] - offsets[0] != prod(shape) * width:
        raise _damaged(
            path,
            f"tensor {name!r} has {offsets[1] - offsets[0]:,} bytes, "
            f"its shape {tuple(shape)} in {ours} needs {prod(shape) * width:,}",
        )
    return TensorInfo(name, ours, tuple(shape), path, begin + offsets[0]), begin + offsets[1]


def _damaged(path: Path, how: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {how}. Fetch or write the file again.")
