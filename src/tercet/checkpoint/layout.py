"""Known layouts of a model folder -> Checkpoint."""

from __future__ import annotations

__all__ = ["Checkpoint", "ModuleSpec"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tercet.checkpoint.header import TensorInfo
from tercet.precision.dtype import DType
from tercet.precision.plan import Footprint


@dataclass(frozen=True, slots=True)
class ModuleSpec:
    """One part after the encoder, as the checkpoint describes it.

    Attributes:
        kind: the module registry's name: "pooling", "dense", "layer_norm", "normalize", "sparse_linear", "colbert_linear".
        where: folder or file it came from, relative to the checkpoint, for messages ("1_Pooling", "sparse_linear.pt").
        config: its settings under the new key names (old ones are translated by the layout), unknown keys refused.
        tensors: its weights by the names that the module's file has.
    """

    kind: str
    where: str
    config: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder as it really is; no weight read.

    Attributes:
        folder: the root folder.
        name: what the user called it (hub id or path).
        layout: "huggingface", "sentence-transformers" or "bge-m3".
        architecture: config.json's model_type: "bert", "roberta", "xlm-roberta".
        config: config.json of the encoder.
        tensors: the encoder's tensors under the encoder's own names: known prefixes ("bert.", "roberta.", "0.auto_model.") removed.
        modules: what stands between the encoder and the dense vector, in order; M3 heads are at the end.
        tokenizer_file: tokenizer.json, or None where the folder has none.
        tokenizer_config: tokenizer_config.json, {} where there is none.
        max_length: longest text in tokens, special tokens included, by every place that limits it (never above the position table).
        lowercase: True where sentence_bert_config.json asks for do_lower_case.
        prompts, default_prompt_name: as config_sentence_transformers.json has them.
        truncate_dim: as config_sentence_transformers.json has it.
        notes: sentences about what was found that a user should know (ignored tensors, assumed pooling, mixed dtypes, legacy format).
        revision: hub commit, or None of a folder.
    """

    folder: Path
    name: str
    layout: str
    architecture: str
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    modules: tuple[ModuleSpec, ...]
    tokenizer_file: Path | None
    tokenizer_config: Mapping[str, Any]
    max_length: int
    lowercase: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    truncate_dim: int | None = None
    notes: tuple[str, ...] = ()
    revision: str | None = None

    def footprint(self) -> Footprint:
        """The numbers that a plan needs."""
        raise NotImplementedError

    def read(self, info: TensorInfo, dtype: DType) -> Tensor:
        """One tensor on the CPU in `dtype`: mapped from the file where nothing is cast, else cast while reading."""
        raise NotImplementedError
