"""Tensors streamed to safetensors shards, and whole checkpoints saved: written aside, then renamed."""

from __future__ import annotations

__all__ = [
    "WritePart",
    "copy_settings",
    "open_tensors",
    "save_checkpoint",
    "settings_files",
    "write_aside",
    "write_tensors",
]

import json
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from tercet.checkpoint.contents import Checkpoint
from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.held import held_folder, remove_abandoned
from tercet.checkpoint.listed import ListedWeights
from tercet.checkpoint.paths import inside, plain, read_json_file, read_json_object
from tercet.checkpoint.routes import ROUTERS, router_folders
from tercet.checkpoint.shards import TensorPlan, header_of, num_bytes, split_by_size
from tercet.errors import InputError, OutputError
from tercet.precision.dtype import DType

# (name, place of the first number in the flattened tensor, numbers) -> written
WritePart = Callable[[str, int, Tensor], None]

_SHARD_BYTES = 5_000_000_000
# Files beside the weights that belong to a model.
_SIDE_FILES = ("*.json", "*.txt", "*.model", "artifact.metadata", "README.md", "LICENSE*", "NOTICE*")


def write_tensors(
    folder: Path,
    plan: TensorPlan,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    max_shard_bytes: int = _SHARD_BYTES,
) -> tuple[Path, ...]:
    """The files written: model.safetensors, or shards with their index; one tensor in memory at a time.

    The bytes are those that the safetensors library writes, whatever the order in which tensors arrive.

    Args:
        folder: what `write_aside` gave, so that nobody sees it half-written.
        plan: every tensor that will come; decides which shard it goes to.
        tensors: each tensor of the plan once, in any order.
        max_shard_bytes: most bytes of tensors in one file; a larger tensor goes alone.

    Raises:
        OutputError: the tensors are not those of the plan.
        OSError: the disk is full or not writable; `write_aside` makes it an OutputError.
    """
    seen: set[str] = set()
    with open_tensors(folder, plan, max_shard_bytes=max_shard_bytes) as (write, files):
        for key, tensor in tensors:
            found = (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
            if key in seen or found != plan.get(key):
                raise OutputError(
                    f"{key!r} came as {found}, planned was {plan.get(key)}, or it came twice. "
                    "Nothing was written."
                )
            seen.add(key)
            write(key, 0, tensor)
    return files


@contextmanager
def open_tensors(
    folder: Path, plan: TensorPlan, *, max_shard_bytes: int = _SHARD_BYTES
) -> Iterator[tuple[WritePart, tuple[Path, ...]]]:
    """What writes tensors part by part into the shards of `write_tensors`, and the files.

    Raises:
        OutputError: a part is of another dtype or leaves its tensor, or numbers of the plan never came.
    """
    shards = split_by_size(plan, max_shard_bytes)
    names = (
        ["model.safetensors"]
        if len(shards) == 1
        else [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    )
    places: dict[str, tuple[BinaryIO, int]] = {}
    left = {key: prod(shape) for key, (_, shape) in plan.items()}
    with ExitStack() as opened:
        for name, members in zip(names, shards, strict=True):
            opened_file = opened.enter_context((folder / name).open("wb"))
            header, offsets = header_of({key: plan[key] for key in members})
            opened_file.write(header)
            places |= {key: (opened_file, offset) for key, offset in offsets.items()}

        def write(key: str, first: int, numbers: Tensor) -> None:
            dtype, shape = plan[key]
            given = str(numbers.dtype).removeprefix("torch.")
            if given != dtype or not 0 <= first <= first + numbers.numel() <= prod(shape):
                raise OutputError(
                    f"{key!r}: {numbers.numel()} numbers in {given} from {first} on, planned was {plan[key]}."
                )
            file, offset = places[key]
            file.seek(offset + first * numbers.element_size())
            file.write(numbers.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
            left[key] -= numbers.numel()

        yield write, tuple(folder / name for name in names)
    missing = [key for key, count in left.items() if count or key not in places]
    if missing:
        raise OutputError(f"{missing[0]!r} was planned and never came ({len(missing)} such).")
    if len(shards) > 1:
        total = sum(num_bytes(entry) for entry in plan.values())
        weight_map = {key: name for name, members in zip(names, shards, strict=True) for key in members}
        _write_json(
            folder / "model.safetensors.index.json",
            {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
        )


@contextmanager
def write_aside(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A new folder beside `folder` that takes its name when the block ends well, else vanishes.

    With `overwrite` what `folder` held before goes then, all of it. What a killed run left beside it goes at
    once.

    Raises:
        OutputError: `folder` holds files already, or the disk is full or not writable.
    """
    used = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if used and not (overwrite and folder.is_dir() and not folder.is_symlink()):
        raise OutputError(f"{folder} exists and is not an empty folder. Name a new one; nothing was written.")
    aside = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.part"
    remove_abandoned(folder)
    try:
        with held_folder(aside):
            try:
                yield aside
                if used:
                    before = aside.with_suffix(".old")
                    folder.rename(before)
                    try:
                        aside.rename(folder)
                    except BaseException:
                        before.rename(folder)
                        raise
                    shutil.rmtree(before)
                else:
                    if folder.exists():
                        folder.rmdir()
                    aside.rename(folder)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
    except OSError as error:
        raise _cannot_write(folder, error) from error


def save_checkpoint(
    checkpoint: Checkpoint,
    folder: str | Path,
    dtype: DType | None = None,
    *,
    max_shard_bytes: int = _SHARD_BYTES,
) -> Path:
    """The folder, now holding the checkpoint: weights as safetensors, M3 heads as .pt, tokenizer, settings.

    Args:
        checkpoint: as `open_checkpoint` found it.
        folder: a new or empty folder.
        dtype: of all floating-point weights; None keeps each as it is stored.
        max_shard_bytes: most bytes of tensors in one file.

    Raises:
        OutputError: the folder is not empty, the disk is full or not writable; nothing is left half-written.
        PrecisionError: a weight becomes infinite in `dtype`.
    """
    folder = Path(folder)
    pooling = next((part for part in checkpoint.parts if part.kind == "pooling"), None)
    if pooling is not None and pooling.where.startswith("pooling="):
        raise InputError(
            f"{checkpoint.name} was opened with {pooling.where}, which the copy would lose. "
            "Open it without pooling= to save it."
        )
    with write_aside(folder) as aside:
        for relative in _folders(checkpoint):
            copy_settings(checkpoint.folder, relative, aside)
        for one in checkpoint.members:
            _write_member(one, aside, dtype, max_shard_bytes)
    return folder


def _write_member(checkpoint: Checkpoint, aside: Path, dtype: DType | None, max_shard_bytes: int) -> None:
    """The weights of one encoder and of the modules behind it; others may have written some of these."""
    # A masked-language head lies in the encoder's file, and its matrix may be the encoder's own.
    shared = [
        info for part in checkpoint.parts for info in part.tensors.values() if info.file in checkpoint.files
    ]
    named = {
        (info.file, info.name): info
        for info in [*checkpoint.tensors.values(), *checkpoint.ignored.values(), *shared]
    }
    # What a JSON file lists was copied with the settings.
    body = [info for info in named.values() if not isinstance(info, ListedWeights)]
    if checkpoint.config["num_hidden_layers"]:  # of a table, no config.json names the dtype
        _write_settings(checkpoint, aside, dtype)
    if body:
        _write_weights(checkpoint, body, aside / checkpoint.encoder_path, dtype, max_shard_bytes)
    for module in checkpoint.parts:
        infos = [info for info in module.tensors.values() if info.file not in checkpoint.files]
        if module.where.endswith(".pt"):
            _write_head(checkpoint, infos, aside / module.where, dtype)
        elif infos:
            _write_weights(checkpoint, infos, aside / module.where, dtype, max_shard_bytes)


def _folders(checkpoint: Checkpoint) -> list[str]:
    """Every folder of the checkpoint that has settings: the root, the encoder's, the modules'."""
    found = {"": None, checkpoint.encoder_path: None}
    modules = checkpoint.folder / "modules.json"
    if modules.is_file():
        for entry in read_json_file(modules):
            found[plain(entry["path"])] = None
            if checkpoint.routes is not None and entry["type"].rsplit(".", 1)[-1] in ROUTERS:
                found |= dict.fromkeys(router_folders(checkpoint.folder, plain(entry["path"])))
    return list(found)


def settings_files(root: Path, relative: str) -> list[Path]:
    """What belongs to a model beside its weights in one folder of it."""
    source = inside(root, relative, said_by="modules.json")
    found = []
    for pattern in _SIDE_FILES if source.is_dir() else ():
        for path in sorted(source.glob(pattern)):
            if path.is_file() and not path.name.endswith(".index.json"):
                within = f"{relative}/{path.name}" if relative else path.name
                found.append(inside(root, within, said_by=path.name))
    return found


def copy_settings(root: Path, relative: str, target: Path) -> None:
    """Copies what belongs to a model beside its weights from one folder of it into the same of `target`."""
    (target / relative).mkdir(parents=True, exist_ok=True)
    for path in settings_files(root, relative):
        shutil.copyfile(path, target / relative / path.name)


def _write_settings(checkpoint: Checkpoint, target: Path, dtype: DType | None) -> None:
    """config.json, whose dtype says what the weights beside it are."""
    stored = {info.dtype for info in checkpoint.tensors.values() if info.is_float}
    written = str(dtype) if dtype is not None else next(iter(stored)) if len(stored) == 1 else None
    path = target / checkpoint.encoder_path / "config.json"
    if not path.is_file():  # a table of words has other settings, and no dtype among them
        return
    config = read_json_object(path)
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    if written is not None and any(config.get(key) != written for key in keys):
        _write_json(path, {**config, **dict.fromkeys(keys, written)})


def _write_weights(
    checkpoint: Checkpoint, infos: list[TensorInfo], folder: Path, dtype: DType | None, max_shard_bytes: int
) -> None:
    plan = {info.name: (_dtype_of(info, dtype), info.shape) for info in infos}

    def stream() -> Iterator[tuple[str, Tensor]]:
        for info in infos:
            yield info.name, _read(checkpoint, info, dtype)
            checkpoint.release(info)

    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, plan, stream(), max_shard_bytes=max_shard_bytes)


def _write_head(checkpoint: Checkpoint, infos: list[TensorInfo], path: Path, dtype: DType | None) -> None:
    if all(_dtype_of(info, dtype) == info.dtype for info in infos):
        shutil.copyfile(infos[0].file, path)
    else:
        torch.save({info.name: _read(checkpoint, info, dtype) for info in infos}, path)


def _dtype_of(info: TensorInfo, dtype: DType | None) -> str:
    return str(dtype) if dtype is not None and info.is_float else info.dtype


def _read(checkpoint: Checkpoint, info: TensorInfo, dtype: DType | None) -> Tensor:
    return checkpoint.read(info, dtype) if dtype is not None and info.is_float else checkpoint.stored(info)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _cannot_write(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{folder} cannot be written: {error.strerror or error}. Free some space or name another place; "
        "nothing half-written was left."
    )
