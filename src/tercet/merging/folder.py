"""A model's folder as a merge sees it: every file of weights, by the part of the model that it belongs to."""

from __future__ import annotations

__all__ = ["ENCODER", "ModelFolder", "Part", "open_folder"]

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.m3 import HEAD_FILES
from tercet.checkpoint.paths import inside, plain, read_json_file, read_json_object
from tercet.checkpoint.routes import ROUTERS, router_folders
from tercet.checkpoint.source import Source
from tercet.checkpoint.torch_file import read_torch_header
from tercet.checkpoint.weights import WEIGHT_FILES, find_weights
from tercet.errors import CheckpointError
from tercet.merging.names import Place, place_of

ENCODER = "encoder"


@dataclass(frozen=True, slots=True)
class Part:
    """Tensors of one folder or file.

    Attributes:
        path: the folder, or the file of a head, relative to the model.
        tensors: place -> the tensor.
        stored: pattern of a place -> the file's own pattern.
    """

    path: str
    tensors: Mapping[Place, TensorInfo]
    stored: Mapping[str, str]


@dataclass(frozen=True)
class ModelFolder:
    """What there is to merge of one model.

    Attributes:
        name: as the recipe has it.
        folder: the root.
        revision: hub commit, or None of a folder.
        encoder_path: the folder of the encoder, its tokenizer and config.json, relative to the root.
        folders: all folders with settings.
        parts: by key, the same in every model: "encoder", a module's class, a head's file.
        has_modules: whether there is a modules.json.
        config: config.json of the encoder; {} where there is none.
        adapter, adapter_files: folder and files of the LoRA adapter that is folded in.
    """

    name: str
    folder: Path
    revision: str | None
    encoder_path: str
    folders: tuple[str, ...]
    parts: Mapping[str, Part]
    has_modules: bool
    config: Mapping[str, Any]
    adapter: Path | None = None
    adapter_files: tuple[Path, ...] = ()

    @cached_property
    def layers(self) -> int:
        """How many layers the encoder has."""
        return max((p.layer + 1 for p in self.parts[ENCODER].tensors if p.layer is not None), default=0)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of weights, without those of an adapter."""
        found = dict.fromkeys(i.file for part in self.parts.values() for i in part.tensors.values())
        return tuple(file for file in found if file not in self.adapter_files)


def open_folder(source: Source) -> ModelFolder:
    """The folder's parts, from configurations and headers alone.

    Raises:
        CheckpointError: a file is missing or damaged, or the folder is a LoRA adapter.
    """
    root = source.folder
    if inside(root, "adapter_config.json", said_by="adapter_config.json").is_file():
        raise CheckpointError(
            f"{root} is a LoRA adapter, not a whole model. Write its base and it as one model, "
            f"'base+{root}', and it is folded into the base."
        )
    modules = _modules(root)
    encoder_path, parts = "", {}
    folders = dict.fromkeys(["", *(path for _, path in modules)])
    for number, (kind, path) in enumerate(modules or [("Transformer", "")]):
        if kind in ROUTERS:
            if number == 0:
                raise CheckpointError(
                    f"{root}: modules.json begins with a router, which is not merged. Merge the folders of "
                    "its routes one by one."
                )
            below = router_folders(root, path)
            folders |= dict.fromkeys(below)
            for one in below:
                if _has_weights(root, one):
                    parts[one.rpartition("/")[2]] = _part(one, find_weights(root, one).tensors)
        elif number == 0:
            encoder_path = path
            parts[ENCODER] = _part(path, find_weights(root, path).tensors)
        elif _has_weights(root, path):
            same = sum(key.partition(" ")[0] == kind for key in parts)
            parts[kind if not same else f"{kind} {same + 1}"] = _part(path, find_weights(root, path).tensors)
    for name in HEAD_FILES.values():
        file = inside(root, name, said_by=name)
        if file.is_file():
            parts[name] = _part(name, read_torch_header(file))
    config = inside(root, f"{encoder_path}/config.json".lstrip("/"), said_by="modules.json")
    return ModelFolder(
        name=source.name,
        folder=root,
        revision=source.revision,
        encoder_path=encoder_path,
        folders=tuple(folders),
        parts=parts,
        has_modules=bool(modules),
        config=read_json_object(config) if config.is_file() else {},
    )


def _modules(root: Path) -> list[tuple[str, str]]:
    """(class, folder) of each entry of modules.json; none where there is no such file."""
    path = inside(root, "modules.json", said_by="modules.json")
    if not path.is_file():
        return []
    entries = read_json_file(path)
    if (
        not isinstance(entries, list)
        or not entries
        or not all(
            isinstance(e, dict) and isinstance(e.get("type"), str) and isinstance(e.get("path"), str)
            for e in entries
        )
    ):
        raise CheckpointError(f"{path} is not a list of modules. Fetch or save the model again.")
    return [(entry["type"].rpartition(".")[2], plain(entry["path"])) for entry in entries]


def _has_weights(root: Path, relative: str) -> bool:
    names = (f"{relative}/{name}" if relative else name for name in WEIGHT_FILES)
    return bool(relative) and any(inside(root, name, said_by="modules.json").is_file() for name in names)


def _part(path: str, tensors: Mapping[str, TensorInfo]) -> Part:
    places: dict[Place, TensorInfo] = {}
    stored: dict[str, str] = {}
    for name, info in tensors.items():
        place, pattern = place_of(name)
        if place in places:
            raise CheckpointError(
                f"{info.file}: {name!r} and {places[place].name!r} are the same tensor, {place}. Remove one "
                "of them; it is not known which is meant."
            )
        places[place] = info
        stored.setdefault(place.pattern, pattern)
    return Part(path, places, stored)
