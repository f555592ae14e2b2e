"""What `regmean` and `fisher` know of a model's texts: one safetensors file, with what it was gathered by.

Its tensors are float32 under "gram/" and "fisher/" and the place that they belong to, such as
"fisher/encoder/encoder.layer.0.output.dense.bias"; its metadata has all else as one JSON text. Layers of one
input share a Gram matrix.
"""

from __future__ import annotations

__all__ = ["KINDS", "Kind", "StatisticsFile", "check_free", "key_of", "read_statistics", "write_statistics"]

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from tercet.checkpoint.header import TensorInfo, read_header
from tercet.errors import CheckpointError, InputError, OutputError
from tercet.merging.names import Place
from tercet.storage.aside import Aside, writing

Kind = Literal["gram", "fisher"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_KEY, _VERSION = "tercet_merge_statistics", 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StatisticsFile:
    """A file of statistics, of which the header alone was read.

    Attributes:
        path: where it is.
        weights_sha256: of the model that they were gathered with, as `hash_weights` has it.
        shared: place -> the place whose Gram matrix is its, too.
        fisher_mean: the mean over all numbers of the model; None of a file without Fisher information.
        tensors: by their names.
        about: all that the file says of how it was gathered.
    """

    path: Path
    weights_sha256: str
    shared: Mapping[str, str]
    fisher_mean: float | None
    tensors: Mapping[str, TensorInfo]
    about: Mapping[str, Any]

    def find(self, kind: Kind, key: str) -> TensorInfo | None:
        """The statistics of a place, None where there are none."""
        return self.tensors.get(f"{kind}/{self.shared.get(key, key) if kind == 'gram' else key}")

    def has(self, kind: Kind) -> bool:
        """Whether there are any of this kind."""
        return any(name.startswith(f"{kind}/") for name in self.tensors)


def key_of(part: str, place: Place) -> str:
    """What statistics of a tensor are called."""
    return f"{part}/{place}"


def read_statistics(path: str | Path) -> StatisticsFile:
    """The header of a file.

    Raises:
        InputError: there is no such file.
        CheckpointError: it holds no statistics, or is damaged.
    """
    path = _named(path)
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such file of statistics. Gather them with: "
            f"tercet merge statistics MODEL TEXTS {path}"
        )
    tensors = read_header(path)
    try:
        with path.open("rb") as file:
            # read_header has compared the length with the size of the file
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        about = json.loads(header["__metadata__"][_KEY])
        shared, mean = about["shared"], about.get("fisher_mean")
        if (
            about["version"] != _VERSION
            or not _SHA256.fullmatch(about["weights_sha256"])
            or not all(isinstance(one, str) for pair in shared.items() for one in pair)
            or not (mean is None or (isinstance(mean, float) and 0 <= mean < math.inf))
            or (mean is None and any(name.startswith("fisher/") for name in tensors))
        ):
            raise ValueError("unknown values")
    except (OSError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} holds no statistics for merges, or those of another version. Gather them with: "
            f"tercet merge statistics MODEL TEXTS {path}"
        ) from error
    return StatisticsFile(path, about["weights_sha256"], shared, mean, tensors, about)


def write_statistics(
    path: str | Path,
    tensors: Iterable[tuple[str, Tensor]],
    shapes: Mapping[str, tuple[int, ...]],
    about: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> Path:
    """The file, written aside and renamed; the same statistics make the same bytes.

    Args:
        path: of the file.
        tensors: each once, in the order of `shapes`; rounded to float32 one at a time.
        shapes: of all.
        about: for the metadata; weights_sha256, shared and fisher_mean among it.
        overwrite: replace what is there.

    Raises:
        OutputError: there is such a file, or it cannot be written.
    """
    path = check_free(path, overwrite=overwrite)
    text = json.dumps({"version": _VERSION, **about}, sort_keys=True, ensure_ascii=False)
    entries: dict[str, Any] = {"__metadata__": {_KEY: text}}
    reached = 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [reached, reached + size]}
        reached += size
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    sink = Aside(path)
    try:
        with writing(path):
            sink.file.write(len(header).to_bytes(8, "little") + header)
            names = iter(shapes.items())
            for name, tensor in tensors:
                assert next(names) == (name, tuple(tensor.shape))
                sink.file.write(tensor.to(torch.float32).contiguous().view(-1).numpy().data)
        sink.commit()
    finally:
        sink.discard()
    return path


def check_free(path: str | Path, *, overwrite: bool) -> Path:
    """The path of a new file of statistics.

    Raises:
        InputError: its name has another ending.
        OutputError: something is there that may not be replaced.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path} is a folder. Name a file, such as {path / 'statistics.safetensors'}.")
    path = _named(path)
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}. Make it first; nothing was written.")
    if path.exists() and not overwrite:
        raise OutputError(
            f"{path} exists. Name another file, or replace it (overwrite=True, --overwrite); nothing was "
            "written."
        )
    return path


def _named(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: files of statistics end in .safetensors. Name it so.")
    return path
