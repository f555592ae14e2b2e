"""Torch's own files (.bin, .pt): names, dtypes and shapes of their tensors, and what may be believed."""

from __future__ import annotations

__all__ = ["TorchFormat", "load_torch_file", "read_remote_header", "read_torch_header", "torch_format"]

import pickle
import re
import struct
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Literal

import torch
from torch import Tensor

from tercet.checkpoint.header import DTYPE_NAMES, TensorInfo
from tercet.errors import CheckpointError, kind_of

TorchFormat = Literal["torch", "torch-legacy"]

_ZIP = b"PK\x03\x04"
# A pickle of the number 0x1950a86a20f9469cfc6c, by which torch knows its files from before 1.6.
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# Where the numbers of a storage lie in the archive: "pytorch_model/data/17".
_NUMBERS = re.compile(r"/data/\d+$")
# The pickle of a state dict takes about a hundred bytes a tensor.
_MAX_PICKLE_BYTES = 64 << 20
# What torch.load raises on files that are damaged, cut off or hold more than tensors.
_LOAD_ERRORS = (
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    RecursionError,
    MemoryError,
    ImportError,
    NotImplementedError,
)


def torch_format(path: Path) -> TorchFormat:
    """Which of torch's two formats a file has, by its first bytes."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing. Fetch the model again.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    if start.startswith(_ZIP):
        return "torch"
    if start.startswith(_LEGACY):
        return "torch-legacy"
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the weights. Run 'git lfs pull' in its folder."
        )
    raise CheckpointError(
        f"{path} is not a file of torch.save: it begins with {start[:8]!r}. Fetch it again, or save "
        "it anew with torch.save."
    )


def read_torch_header(path: Path) -> dict[str, TensorInfo]:
    """Every tensor of a .bin or .pt file, in the order of its pickle; no weight is read, no code is run."""
    if torch_format(path) == "torch":
        _check_records(path)
    size = path.stat().st_size
    found = {}
    for name, tensor in load_torch_file(path, "meta").items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if tensor.layout != torch.strided or tensor.is_quantized or dtype not in DTYPE_NAMES:
            raise CheckpointError(
                f"{path}: {name!r} is a {dtype} tensor of layout {tensor.layout}, which is not read. "
                "Convert the model to a plain floating-point dtype."
            )
        stored = tensor.untyped_storage().nbytes()
        if stored > size or tensor.numel() * tensor.element_size() > stored:
            raise CheckpointError(
                f"{path} is damaged: {name!r} {tuple(tensor.shape)} claims more numbers than the file's "
                f"{size:,} bytes can hold. Fetch or write the file again."
            )
        found[name] = TensorInfo(name, dtype, tuple(tensor.shape), path, None)
    return found


def read_remote_header(file: BinaryIO, size: int, path: Path) -> dict[str, TensorInfo] | None:
    """The header of a file that is somewhere else, from the few ranges of it that describe the tensors.

    Args:
        file: reads ranges, as an open file on the hub does.
        size: bytes of the whole file.
        path: what the tensors' `file` shall be.

    Returns:
        None where the format has no header: such a file must be fetched whole.
    """
    if not file.read(len(_ZIP)).startswith(_ZIP):
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            records, directory = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path} on the hub is damaged ({error}). Try another revision.") from error
    # A file of that size with holes in place of the numbers: the checks and torch read it like the original.
    with tempfile.TemporaryDirectory() as folder, (mirror := Path(folder) / path.name).open("wb+") as copy:
        copy.truncate(size)
        _copy(file, copy, directory, size - directory)
        for record in records:
            if not _NUMBERS.search(record.filename) and record.file_size <= _MAX_PICKLE_BYTES:
                # The record's own header: 30 bytes, its name, and padding of a length that stands in it.
                file.seek(record.header_offset + 26)
                lengths = file.read(4)
                names = int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
                _copy(file, copy, record.header_offset, 30 + names + record.file_size)
        copy.flush()
        return {name: replace(info, file=path) for name, info in read_torch_header(mirror).items()}


def _copy(source: BinaryIO, target: BinaryIO, start: int, length: int) -> None:
    source.seek(start)
    target.seek(start)
    target.write(source.read(length))


def load_torch_file(path: Path, device: Literal["cpu", "meta"]) -> Mapping[str, Tensor]:
    """The tensors of the file by name: mapped where the format allows, whole in memory from the old one.

    Raises:
        CheckpointError: the file is damaged, holds anything but tensors, or would run code.
    """
    try:
        found = torch.load(
            path, map_location=device, weights_only=True, mmap=True if torch_format(path) == "torch" else None
        )
    except _LOAD_ERRORS as error:
        # Torch's own advice, to load the file without the restriction, is not passed on.
        said = (line.strip() for line in str(error).splitlines() if "weights_only" not in line)
        reason = next(filter(None, said), type(error).__name__)
        if isinstance(error, pickle.UnpicklingError):
            raise CheckpointError(
                f"{path} holds more than tensors and is refused, because reading it could run code "
                f"({reason[:300]}). Ask its author for .safetensors, or convert it where you trust it."
            ) from error
        raise CheckpointError(f"{path} is damaged or cut off ({reason[:300]}). Fetch it again.") from error
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path} holds {kind_of(found)}, expected tensors by name.")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"{path}: {name!r} is {kind_of(tensor)}, expected tensors by name alone. "
                "Save the model's state dict itself, not a training state around it."
            )
    return {name: tensor.detach() for name, tensor in found.items()}


def _check_records(path: Path) -> None:
    """Refuse archives that unpack to more than they are, before torch believes their sizes."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is damaged or cut off ({error}). Fetch it again.") from error
    total = 0
    for record in records:
        total += record.file_size
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise CheckpointError(
                f"{path}: record {record.filename!r} is compressed, which torch.save never does. "
                "Refused; fetch it again."
            )
        if record.filename.endswith(".pkl") and record.file_size > _MAX_PICKLE_BYTES:
            raise CheckpointError(
                f"{path}: record {record.filename!r} has {record.file_size:,} bytes: too many to describe "
                "tensors. Refused; fetch it again."
            )
    names = {record.filename for record in records}
    if total > size or len(names) != len(records):
        raise CheckpointError(
            f"{path} is damaged: its records overlap ({total:,} bytes in a file of {size:,}). Fetch it again."
        )
