"""Random rerankers in tiny folders: an encoder of `tiny` with a classification head, the same everywhere.

Needs numpy, torch, safetensors and tokenizers alone, so that it also runs where the peers are installed.
"""

from __future__ import annotations

__all__ = ["write_reranker"]

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import tiny

_HEADS = {
    "bert": (None, "classifier"),
    "roberta": ("classifier.dense", "classifier.out_proj"),
    "xlm-roberta": ("classifier.dense", "classifier.out_proj"),
    "electra": ("classifier.dense", "classifier.out_proj"),
    "mpnet": ("classifier.dense", "classifier.out_proj"),
    "distilbert": ("pre_classifier", "classifier"),
}
_CLASSES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "electra": "Electra",
    "mpnet": "MPNet",
    "distilbert": "DistilBert",
}
_TYPED = ("bert", "electra")
_PREFIXES = {"xlm-roberta": "roberta."}


def write_reranker(
    folder: str | Path,
    architecture: tiny.Architecture = "xlm-roberta",
    *,
    labels: int = 1,
    hidden: int = 32,
    dtype: str = "float32",
    head_dtype: str | None = None,
    scale: float = 1.0,
    activation: str | None = None,
    keys: str = "new",
    prompts: Mapping[str, str] | None = None,
    default_prompt_name: str | None = None,
    cross_encoder: bool = False,
    types: bool = True,
    seed: int = 0,
    **settings: Any,
) -> Path:
    """The folder, now holding a whole random reranker as transformers saves it.

    Args:
        folder: made if need be.
        architecture: which encoder.
        labels: scores of a pair.
        hidden, dtype, seed: as in `tiny.write_checkpoint`.
        head_dtype: stored dtype of the head; None for `dtype`.
        scale: of the last layer's weights.
        activation: what becomes of logits, a path to a class; None, and the folder says nothing.
        keys: where it says so: "new" (config.json, sentence_transformers), "old"
            (sbert_ce_default_activation_function), or "top" (config_sentence_transformers.json).
        prompts, default_prompt_name: of config_sentence_transformers.json.
        cross_encoder: with modules.json and its kin, as sentence-transformers 6 saves a CrossEncoder.
        types: whether tokenizer_config.json lets BERT's kin tell query and document apart.
        settings: of `tiny.write_checkpoint`.
    """
    config: dict[str, Any] = {
        "architectures": [f"{_CLASSES[architecture]}ForSequenceClassification"],
        "id2label": {str(label): f"LABEL_{label}" for label in range(labels)},
        "label2id": {f"LABEL_{label}": label for label in range(labels)},
        **settings.pop("config", {}),
    }
    if activation is not None and keys == "new":
        config["sentence_transformers"] = {"activation_fn": activation, "version": "5.1.0"}
    if activation is not None and keys == "old":
        config["sbert_ce_default_activation_function"] = activation
    prefix = _PREFIXES.get(architecture, f"{architecture}.")
    folder = tiny.write_checkpoint(
        folder, architecture, hidden=hidden, dtype=dtype, seed=seed, prefix=prefix, config=config, **settings
    )
    if architecture in _TYPED:
        # Said outright: what follows from the class alone changed with transformers 5.
        path = folder / "tokenizer_config.json"
        names = ["input_ids", "token_type_ids", "attention_mask"]
        config = json.loads(path.read_text(encoding="utf-8"))
        _json(path, {**config, "model_input_names": names if types else [names[0], names[2]]})
    path = folder / "model.safetensors"
    tensors = load_file(path)
    dense, out = _HEADS[architecture]
    shapes = {f"{out}.weight": (labels, hidden), f"{out}.bias": (labels,)}
    if dense is not None:
        shapes |= {f"{dense}.weight": (hidden, hidden), f"{dense}.bias": (hidden,)}
        # What transformers leaves out of a model that has a head of its own.
        tensors = {name: tensor for name, tensor in tensors.items() if ".pooler." not in name}
    for name, shape in shapes.items():
        values = 0.3 * np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
        values *= scale if name.startswith(f"{out}.") else 1.0
        tensors[name] = torch.from_numpy(values).to(getattr(torch, head_dtype or dtype))
    save_file(tensors, path, metadata={"format": "pt"})
    if cross_encoder or prompts is not None or keys == "top":
        _write_cross_encoder(folder, activation if keys == "top" else None, prompts, default_prompt_name)
    return folder


def _write_cross_encoder(
    folder: Path, activation: str | None, prompts: Mapping[str, str] | None, default: str | None
) -> None:
    transformer = "sentence_transformers.base.modules.transformer.Transformer"
    _json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": transformer}])
    modality = {"text": {"method": "forward", "method_output_name": "logits"}}
    _json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "sequence-classification",
            "modality_config": modality,
            "module_output_name": "scores",
        },
    )
    top: dict[str, Any] = {
        "__version__": {"sentence_transformers": "6.2.0"},
        "default_prompt_name": default,
        "model_type": "CrossEncoder",
        "prompts": dict(prompts or {}),
    }
    if activation is not None:
        top["activation_fn"] = activation
    _json(folder / "config_sentence_transformers.json", top)


def _json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
