"""Which files hold the weights of one folder, whole or in shards, and every tensor in them."""

from __future__ import annotations

__all__ = ["WEIGHT_FILES", "Remote", "Weights", "find_weights"]

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tercet.checkpoint.header import TensorInfo, read_header
from tercet.checkpoint.paths import inside, read_json_object
from tercet.checkpoint.torch_file import read_torch_header, torch_format
from tercet.checkpoint.unknown import looks_like
from tercet.errors import CheckpointError
from tercet.precision.footprint import FileFormat

# Headers of files that were left on the hub, by their place in the folder.
Remote = Mapping[str, Mapping[str, TensorInfo]]

# In the order of preference: safetensors maps without a pickle.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

_COSTLY: tuple[FileFormat, ...] = ("torch-legacy", "torch")


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of one folder.

    Attributes:
        file_format: how they are stored.
        files: the files that hold them, in order.
        tensors: by the names that the files have.
    """

    file_format: FileFormat
    files: tuple[Path, ...]
    tensors: dict[str, TensorInfo]


def find_weights(folder: Path, relative: str = "", remote: Remote | None = None) -> Weights:
    """The weights of a folder of the checkpoint.

    Args:
        folder: the checkpoint's root.
        relative: the folder within it ("", "2_Dense").
        remote: headers of files that are not there themselves.
    """
    remote = remote or {}
    place = inside(folder, relative, said_by="modules.json")
    for name in WEIGHT_FILES:
        within = f"{relative}/{name}" if relative else name
        path = inside(folder, within, said_by="modules.json")
        if within in remote or path.is_file():
            if name.endswith(".index.json"):
                return _read_shards(folder, relative, path, remote)
            return _read_files({within: path}, remote)
    present = sorted(p.name for p in place.iterdir()) if place.is_dir() else []
    raise CheckpointError(
        f"{place} has no weights: none of {', '.join(WEIGHT_FILES)}"
        + (f" among {', '.join(present[:12])}" if present else ", and the folder is empty or missing")
        + f". {looks_like(place) or 'Fetch the model again, or save it with save_pretrained.'}"
    )


def _read_shards(folder: Path, relative: str, index: Path, remote: Remote) -> Weights:
    """All shards that the index names, and nothing that it does not."""
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map. Fetch or write it again.")
    names: dict[str, None] = {}
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or not file.endswith((".safetensors", ".bin")):
            raise CheckpointError(f"{index}: the shard of {tensor!r} is {file!r}, not a file of weights.")
        names[file] = None
    paths: dict[str, Path] = {}
    for name in sorted(names):
        within = f"{relative}/{name}" if relative else name
        path = paths[within] = inside(folder, within, said_by=index.name)
        if within not in remote and not path.is_file():
            raise CheckpointError(
                f"{index} names the shard {name!r}, which is missing. Fetch the model again."
            )
    found = _read_files(paths, remote)
    missing = [name for name in weight_map if name not in found.tensors]
    if missing:
        raise CheckpointError(
            f"{index} promises {missing[0]!r} in {weight_map[missing[0]]!r}, which does not hold it "
            f"({len(missing)} such). The shards are of different saves; fetch the model again."
        )
    return found


def _read_files(paths: Mapping[str, Path], remote: Remote) -> Weights:
    tensors: dict[str, TensorInfo] = {}
    formats: set[FileFormat] = set()
    for within, path in paths.items():
        safe = path.suffix == ".safetensors"
        if within in remote:
            formats.add("safetensors" if safe else "torch")
            header: Mapping[str, TensorInfo] = remote[within]
        else:
            formats.add("safetensors" if safe else torch_format(path))
            header = read_header(path) if safe else read_torch_header(path)
        for name, info in header.items():
            if name in tensors:
                raise CheckpointError(
                    f"{path} and {tensors[name].file.name} both hold {name!r}. Fetch the model again."
                )
            tensors[name] = info
    # A single shard in the old format is read whole, so the costliest one names the checkpoint.
    costliest: FileFormat = next((kind for kind in _COSTLY if kind in formats), "safetensors")
    return Weights(costliest, tuple(paths.values()), tensors)
