"""A quantizer's file: safetensors, with its settings as JSON in the header."""

from __future__ import annotations

__all__ = ["read", "write"]

import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from tercet.errors import InputError, OutputError
from tercet.quantization.ranges import Ranges
from tercet.quantization.stored import STORED_PRECISIONS, StoredPrecision, stored_precision

_KEY = "tercet.quantizer"
_FORMAT = 1
# Wider than any model's vectors; two float64 numbers a dimension, and a header that is far shorter.
_MAX_DIM = 1 << 20
_MAX_BYTES = 2 * 8 * _MAX_DIM + (1 << 16)


def write(path: Path, precision: StoredPrecision, dim: int, ranges: Ranges | None) -> Path:
    """The file, written aside and renamed.

    Raises:
        OutputError: it cannot be written.
    """
    if dim > _MAX_DIM:
        raise OutputError(
            f"{path}: a quantizer of {dim:,} dimensions is not saved; {_MAX_DIM:,} are the most."
        )
    settings = {
        "format": _FORMAT,
        "precision": precision,
        "dim": dim,
        "vectors": ranges.vectors if ranges else None,
    }
    tensors = {} if ranges is None else {"low": ranges.low.contiguous(), "high": ranges.high.contiguous()}
    content = save_tensors(tensors, metadata={_KEY: json.dumps(settings)})
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            with aside.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}. Free some space or name another place."
        ) from error
    return path


def read(path: Path) -> tuple[StoredPrecision, int, Ranges | None]:
    """What `write` was given.

    Raises:
        InputError: the file is missing, damaged, or another kind of file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}. Fit a quantizer and save it."
        ) from error
    if len(content) > _MAX_BYTES:
        raise _refused(path, f"it is larger than {_MAX_BYTES:,} bytes")
    try:
        tensors = load_tensors(content)
        length = int.from_bytes(content[:8], "little")
        settings = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_KEY])
        precision, dim, vectors = _settings(settings)
        if precision != "int8":
            return precision, dim, None
        ranges = Ranges(tensors["low"], tensors["high"], vectors)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _refused(path, str(error)) from error
    if ranges.low.dtype != torch.float64 or ranges.high.dtype != torch.float64 or len(ranges.low) != dim:
        raise _refused(path, f"its ranges are not {dim} float64 numbers each")
    return precision, dim, ranges


def _settings(found: Any) -> tuple[StoredPrecision, int, int]:
    """Precision, width and number of vectors, after all were found to be what they must be."""
    if found["format"] != _FORMAT:
        raise ValueError(f"its format is {found['format']!r}, this version knows {_FORMAT}")
    if not isinstance(found["precision"], str) or found["precision"] not in STORED_PRECISIONS:
        raise ValueError(f"its precision is {found['precision']!r}")
    dim, vectors = found["dim"], found["vectors"]
    if type(dim) is not int or not 1 <= dim <= _MAX_DIM:
        raise ValueError(f"its dim is {dim!r}")
    if found["precision"] == "int8" and (type(vectors) is not int or vectors < 2):
        raise ValueError(f"it was calibrated with {vectors!r} vectors")
    return stored_precision(found["precision"]), dim, vectors or 0


def _refused(path: Path, why: str) -> InputError:
    return InputError(f"{path} is not a quantizer that Tercet wrote: {why}. Fit one anew, and save it.")
