"""A trained model as one folder that Tercet, sentence-transformers and FlagEmbedding load."""

from __future__ import annotations

__all__ = ["TrainedTensors", "save_trained"]

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.layout import Checkpoint, ModuleSpec
from tercet.checkpoint.paths import read_json_object
from tercet.checkpoint.tensors import TensorReader
from tercet.checkpoint.writer import save_checkpoint, write_aside
from tercet.errors import PrecisionError
from tercet.precision.dtype import DType
from tercet.training.model import Trainable

# sentence-transformers before 5 wrote these, and every release reads them.
_CLASSES = {
    "transformer": "sentence_transformers.models.Transformer",
    "pooling": "sentence_transformers.models.Pooling",
    "normalize": "sentence_transformers.models.Normalize",
}
_POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def save_trained(model: Trainable, folder: str | Path, dtype: DType, *, card: str) -> Path:
    """The folder, now holding weights, heads, tokenizer, settings and card; written aside, then renamed.

    Args:
        model: what was trained.
        folder: new or empty.
        dtype: of all weights.
        card: README.md.

    Raises:
        OutputError: the folder is not empty, or cannot be written; nothing is left half-written.
        PrecisionError: a weight becomes infinite in `dtype`.
    """
    folder = Path(folder)
    checkpoint = model.checkpoint
    own_stack = (
        checkpoint.layout != "sentence-transformers" and not (checkpoint.folder / "modules.json").is_file()
    )
    asked = any(spec.where.startswith("pooling=") for spec in checkpoint.modules)
    heads = ("sparse_linear", "colbert_linear")
    body = tuple(_placed(spec) for spec in checkpoint.modules if spec.kind not in heads)
    trained = replace(checkpoint, modules=body, _reader=TrainedTensors(checkpoint, model))
    with write_aside(folder) as aside:
        save_checkpoint(trained, aside, dtype)
        for file, tensors in model.head_tensors().items():
            torch.save(
                {name: narrowed(value, dtype, name, file) for name, value in tensors.items()}, aside / file
            )
        if own_stack or asked:
            _write_stack(aside, checkpoint, body)
        if model.heads.sparse is not None:
            _name_ends(aside / checkpoint.encoder_path / "tokenizer_config.json")
        (aside / "README.md").write_text(card, encoding="utf-8")
    return folder


class Learnt(Protocol):
    """A model that was trained."""

    def named_tensors(self) -> Iterator[tuple[TensorInfo, Tensor]]:
        """Tensors of its checkpoint that may have been trained."""
        ...


class TrainedTensors(TensorReader):
    """Reads what was trained from memory, and the rest from the checkpoint's files."""

    def __init__(self, checkpoint: Checkpoint, model: Learnt) -> None:
        super().__init__()
        self._trained = {(info.file, info.name): values for info, values in model.named_tensors()}

    def read(self, info: TensorInfo, dtype: DType) -> Tensor:
        """As a reader of files; an error where a trained number becomes infinite."""
        values = self._trained.get((info.file, info.name))
        if values is None:
            return super().read(info, dtype)
        return narrowed(values, dtype, info.name, info.file.name)

    def stored(self, info: TensorInfo) -> Tensor:
        """As a reader of files; what was trained is float32."""
        values = self._trained.get((info.file, info.name))
        return super().stored(info) if values is None else values.detach().cpu()


def narrowed(values: Tensor, dtype: DType, name: str, where: str) -> Tensor:
    """The values on the CPU in `dtype`; an error where one becomes infinite."""
    found = values.detach().to("cpu", dtype.torch).contiguous()
    # A NaN is both, so that no mask as large as an embedding table is made.
    if found.numel() and not all(isfinite(float(bound)) for bound in torch.aminmax(found)):
        largest = float(values.detach().abs().max())
        raise PrecisionError(
            f"{where}: {name!r} holds {largest:g}, which is not finite in {dtype}. Save in bfloat16 or "
            "float32; if it is not finite there either, the run diverged: lower the learning rate."
        )
    return found


def _placed(spec: ModuleSpec) -> ModuleSpec:
    """A module that came from an option or an assumption, in a folder of its own."""
    if spec.kind == "pooling" and (spec.where.startswith("pooling=") or not spec.where.startswith("1_")):
        return replace(spec, where="1_Pooling") if not spec.tensors else spec
    return spec


def _write_stack(folder: Path, checkpoint: Checkpoint, modules: tuple[ModuleSpec, ...]) -> None:
    """modules.json and what it names: the encoder, its pooling, and Normalize where there is one."""
    path = checkpoint.encoder_path
    entries = [{"idx": 0, "name": "0", "path": path, "type": _CLASSES["transformer"]}]
    for place, spec in enumerate(modules, start=1):
        where = f"{place}_{'Pooling' if spec.kind == 'pooling' else 'Normalize'}"
        entries.append({"idx": place, "name": str(place), "path": where, "type": _CLASSES[spec.kind]})
        (folder / where).mkdir(exist_ok=True)
        if spec.kind == "pooling":
            modes = tuple(spec.config["modes"])
            settings: dict[str, Any] = {"word_embedding_dimension": int(checkpoint.config["hidden_size"])}
            settings |= {key: mode in modes for mode, key in _POOLING_KEYS.items()}
            settings["include_prompt"] = spec.config.get("include_prompt", True)
            _write_json(folder / where / "config.json", settings)
    _write_json(folder / "modules.json", entries)
    limits = {"max_seq_length": checkpoint.max_length, "do_lower_case": checkpoint.lowercase}
    bert = folder / path / "sentence_bert_config.json"
    if not bert.is_file():
        _write_json(bert, limits)
    said = folder / "config_sentence_transformers.json"
    if not said.is_file():
        _write_json(
            said,
            {
                "__version__": {"sentence_transformers": "5.0.0"},
                "prompts": dict(checkpoint.prompts),
                "default_prompt_name": checkpoint.default_prompt_name,
                "similarity_fn_name": "cosine",
            },
        )


def _name_ends(path: Path) -> None:
    """Has a tokenizer with [CLS] and [SEP] call them bos and eos, too.

    FlagEmbedding leaves cls, eos, pad and unk out of sparse vectors: without an eos it keeps [SEP].
    """
    config: Mapping[str, Any] = read_json_object(path) if path.is_file() else {}
    roles = {"bos_token": config.get("cls_token"), "eos_token": config.get("sep_token")}
    added = {role: token for role, token in roles.items() if token is not None and not config.get(role)}
    if added:
        _write_json(path, {**config, **added})


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
