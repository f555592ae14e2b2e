"""LoRA adapters folded into their base while it is read (Hu et al. 2021; files as peft writes them).

W + s·B·A in float64, s = alpha / r, or alpha / sqrt(r) with use_rslora (Kalajdzievski 2023).
"""

from __future__ import annotations

__all__ = ["AdaptedTensor", "fold_adapter"]

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tercet.checkpoint.header import TensorInfo, read_header
from tercet.checkpoint.paths import inside, read_json_object
from tercet.checkpoint.tensors import TensorReader
from tercet.checkpoint.torch_file import read_torch_header
from tercet.errors import CheckpointError, InputError
from tercet.merging.derived import DerivedTensor
from tercet.merging.folder import ModelFolder, Part
from tercet.merging.names import Place, place_of

_CONFIG = "adapter_config.json"
_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_FACTOR = re.compile(
    r"^(?P<module>.*)\.lora_(?P<kind>embedding_)?(?P<side>[AB])(?:\.default)?(?:\.(?P<leaf>weight|bias))?$"
)
# Settings of peft by which A and B mean something else than a product that is added.
_OTHER_KINDS = (
    "use_dora",
    "layer_replication",
    "megatron_config",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
# Beginnings that change the base's own weights, which the adapter's files do not hold.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_MAX_RANK = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedTensor(DerivedTensor):
    """A weight of the base with the product of two factors added.

    Attributes:
        stored: the base's.
        left: (rows, rank) or, with `turned`, (rank, rows) of the weight as it is stored.
        right: (rank, columns) or, with `turned`, (columns, rank).
        turned: whether the product is that of the factors transposed: embeddings, and weights (in, out).
        scale: of the product.
    """

    stored: TensorInfo
    left: TensorInfo
    right: TensorInfo
    turned: bool
    scale: float

    def part(self, reader: TensorReader, start: int, stop: int) -> Tensor:
        """Some numbers in float64."""
        columns = self.shape[1]
        first, last = start // columns, -(-stop // columns)
        rank = self.left.shape[0] if self.turned else self.left.shape[1]
        if self.turned:
            rows = self.left.shape[1]
            parts = [reader.part(self.left, r * rows + first, r * rows + last) for r in range(rank)]
            left = torch.stack(parts, 1).double()
            right = reader.part(self.right, 0, self.right.numbers).double().reshape(columns, rank).T
        else:
            left = reader.part(self.left, first * rank, last * rank).double().reshape(-1, rank)
            right = reader.part(self.right, 0, self.right.numbers).double().reshape(rank, columns)
        added = (left @ right).reshape(-1)[start - first * columns : stop - first * columns]
        return reader.part(self.stored, start, stop).double() + self.scale * added


@dataclass(frozen=True, slots=True, eq=False)
class _AddedBias(DerivedTensor):
    """A bias of the base with that of a factor added."""

    stored: TensorInfo
    other: TensorInfo
    scale: float

    def part(self, reader: TensorReader, start: int, stop: int) -> Tensor:
        added = reader.part(self.other, start, stop).double()
        return reader.part(self.stored, start, stop).double() + self.scale * added


def fold_adapter(model: ModelFolder, folder: Path) -> ModelFolder:
    """The model with the adapter's changes in its tensors, made as they are read.

    Tensors that the adapter has whole (modules_to_save, biases, embeddings) take the place of the model's.

    Raises:
        InputError: there is no such folder.
        CheckpointError: the folder holds no LoRA adapter, one of a kind that is not a product added to the
            weights (DoRA, PiSSA and the like), or one for another model.
    """
    if not folder.is_dir():
        raise InputError(
            f"{model.name}: there is no folder {folder}. An adapter of the hub is fetched first: "
            f"hf download {folder} --local-dir adapter; then write base+adapter."
        )
    path = inside(folder, _CONFIG, said_by=_CONFIG)
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {_CONFIG}: it is no adapter. After '+' comes a folder that peft wrote."
        )
    config = read_json_object(path)
    _check_kind(path, config)
    tensors = _tensors(folder)
    factors: dict[str, dict[str, TensorInfo]] = {}
    whole: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        found = _FACTOR.match(name)
        if found is None:
            whole[name] = info
            continue
        kind = "embedding" if found["kind"] else "linear"
        leaf = "" if found["leaf"] in (None, "weight") else " bias"
        factors.setdefault(found["module"], {})[f"{kind} {found['side']}{leaf}"] = info
    if not factors and not whole:
        raise CheckpointError(f"{folder} holds no tensor of an adapter. Fetch or save it again.")
    places = {(key, place) for key, part in model.parts.items() for place in part.tensors}
    changed: dict[tuple[str, Place], TensorInfo] = {}
    for module, given in factors.items():
        key, place = _find(f"{module}.weight", places, model, folder)
        weight = model.parts[key].tensors[place]
        scale = _scale(path, config, module, given)
        changed[key, place] = _adapted(path, config, module, weight, given, scale)
        if "linear B bias" in given:
            key, place = _find(f"{module}.bias", places, model, folder)
            bias, other = model.parts[key].tensors[place], given["linear B bias"]
            _same_shape(path, module, bias.shape, other.shape)
            changed[key, place] = _AddedBias(
                bias.name, bias.dtype, bias.shape, bias.file, bias.offset, bias, other, scale
            )
    for name, info in whole.items():
        key, place = _find(_plain(name), places, model, folder)
        _same_shape(path, name, model.parts[key].tensors[place].shape, info.shape)
        changed[key, place] = info
    parts = {}
    for key, part in model.parts.items():
        now = {place: changed.get((key, place), info) for place, info in part.tensors.items()}
        parts[key] = Part(part.path, now, part.stored)
    files = tuple(dict.fromkeys(info.file for info in tensors.values()))
    return replace(model, parts=parts, adapter=folder, adapter_files=files)


def _check_kind(path: Path, config: Mapping[str, Any]) -> None:
    kind = str(config.get("peft_type", "LORA")).upper()
    if kind != "LORA":
        raise CheckpointError(
            f"{path}: the adapter is of type {kind}, only LORA is folded here. Fold it with peft "
            "(merge_and_unload, then save_pretrained), and name the result."
        )
    start = config.get("init_lora_weights")
    said = [name for name in _OTHER_KINDS if config.get(name)]
    if isinstance(start, str) and start.lower().startswith(_CHANGED_BASE):
        said.append(f"init_lora_weights: {start}")
    if said:
        raise CheckpointError(
            f"{path} has {', '.join(said)}: such an adapter is more than a product added to the weights. "
            "Fold it with peft (merge_and_unload, then save_pretrained), and name the result."
        )


def _tensors(folder: Path) -> Mapping[str, TensorInfo]:
    for name in _FILES:
        file = inside(folder, name, said_by=_CONFIG)
        if file.is_file():
            return read_header(file) if name.endswith(".safetensors") else read_torch_header(file)
    raise CheckpointError(f"{folder} has neither {' nor '.join(_FILES)}. Fetch or save the adapter again.")


def _scale(path: Path, config: Mapping[str, Any], module: str, given: Mapping[str, TensorInfo]) -> float:
    first = given.get("linear A") or given.get("embedding A")
    rank = first.shape[0] if first is not None and first.shape else 0
    name = _plain(f"{module}.weight").removesuffix(".weight")
    alpha = _of_pattern(config.get("alpha_pattern"), name, config.get("lora_alpha"))
    if type(alpha) not in (int, float) or not math.isfinite(alpha) or not 0 < rank <= _MAX_RANK:
        raise CheckpointError(
            f"{path}: lora_alpha is {alpha!r} and the rank {rank} for {name}, expected two numbers. "
            "Fetch or save the adapter again."
        )
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _of_pattern(patterns: Any, module: str, otherwise: Any) -> Any:
    """The value of the first pattern that is the end of the module's name, as in peft."""
    for pattern, value in (patterns or {}).items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error:
            continue
    return otherwise


def _adapted(
    path: Path,
    config: Mapping[str, Any],
    module: str,
    weight: TensorInfo,
    given: Mapping[str, TensorInfo],
    scale: float,
) -> AdaptedTensor:
    kind: Literal["linear", "embedding"] = "embedding" if "embedding A" in given else "linear"
    a, b = given.get(f"{kind} A"), given.get(f"{kind} B")
    if a is None or b is None or len(a.shape) != 2 or len(b.shape) != 2 or len(weight.shape) != 2:
        raise CheckpointError(
            f"{path}: {module} has not one matrix A and one B for a matrix of the model; convolutions and "
            "halves of a pair are not folded. Fold the adapter with peft (merge_and_unload)."
        )
    turned = kind == "embedding" or bool(config.get("fan_in_fan_out"))
    # B·A is (out, in); an embedding and a weight (in, out) take it transposed
    product = (b.shape[0], a.shape[1])
    _same_shape(path, module, weight.shape, product[::-1] if turned else product)
    _same_shape(path, module, (a.shape[0],), (b.shape[1],))
    left, right = (a, b) if turned else (b, a)
    return AdaptedTensor(
        weight.name,
        weight.dtype,
        weight.shape,
        weight.file,
        weight.offset,
        weight,
        left,
        right,
        turned,
        scale,
    )


def _plain(name: str) -> str:
    """The model's name of a tensor: without what peft puts around it."""
    name = name.removeprefix("base_model.model.")
    for added in (".modules_to_save.default", ".modules_to_save", ".base_layer", ".original_module"):
        name = name.replace(added, "")
    return name


def _find(name: str, places: set[tuple[str, Place]], model: ModelFolder, folder: Path) -> tuple[str, Place]:
    """The part and place of the model that a name of the adapter means."""
    wanted = place_of(_plain(name))[0]
    found = [key for key, place in places if place == wanted]
    if len(found) != 1:
        raise CheckpointError(
            f"{folder}: the adapter changes {_plain(name)!r}, which {model.name} does not have. It belongs "
            "to another model; its adapter_config.json names it as base_model_name_or_path."
        )
    return found[0], wanted


def _same_shape(path: Path, module: str, expected: tuple[int, ...], found: tuple[int, ...]) -> None:
    if expected != found:
        raise CheckpointError(
            f"{path.parent}: {module} changes numbers of shape {found}, the model's are {expected}. The "
            "adapter belongs to another model."
        )
