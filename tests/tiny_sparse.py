"""Random SPLADE and CSR folders: a tiny checkpoint with a masked-language head, or with a sparse autoencoder.

Needs what `tiny` needs, so that it also runs where the peers are installed.
"""

from __future__ import annotations

__all__ = ["head", "write_csr", "write_routes", "write_splade"]

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import tiny

_CLASSES = {
    "bert": "BertForMaskedLM",
    "roberta": "RobertaForMaskedLM",
    "xlm-roberta": "XLMRobertaForMaskedLM",
    "distilbert": "DistilBertForMaskedLM",
    "mpnet": "MPNetForMaskedLM",
    "electra": "ElectraForMaskedLM",
}
# transformers' prefix of the encoder, and its names of the head: dense, normalisation, decoder, bias.
_NAMES = {
    "bert": (
        "bert.",
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.decoder",
        "cls.predictions.bias",
    ),
    "roberta": ("roberta.", "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"),
    "distilbert": (
        "distilbert.",
        "vocab_transform",
        "vocab_layer_norm",
        "vocab_projector",
        "vocab_projector.bias",
    ),
}
_NAMES["xlm-roberta"] = _NAMES["roberta"]
_NAMES["electra"] = (
    "electra.",
    "generator_predictions.dense",
    "generator_predictions.LayerNorm",
    "generator_lm_head",
    "generator_lm_head.bias",
)
_NAMES["mpnet"] = ("mpnet.", *_NAMES["roberta"][1:])


def head(
    architecture: str,
    vocabulary: int,
    hidden: int = 32,
    seed: int = 0,
    *,
    untied: bool = False,
    embedding: int | None = None,
) -> dict[str, torch.Tensor]:
    """The float32 tensors of a masked-language head by transformers' names; ELECTRA's is `embedding` wide."""
    width = embedding or hidden
    _, dense, norm, decoder, bias = _NAMES[architecture]
    made = {
        f"{dense}.weight": _normal(seed, "head.dense.weight", (width, hidden)),
        f"{dense}.bias": _normal(seed, "head.dense.bias", (width,)),
        f"{norm}.weight": 1 + _normal(seed, "head.norm.weight", (width,)),
        f"{norm}.bias": _normal(seed, "head.norm.bias", (width,)),
        # Below zero: most words get no weight.
        bias: _normal(seed, "head.bias", (vocabulary,)) - 1.0,
    }
    if untied:
        made[f"{decoder}.weight"] = _normal(seed, "head.decoder.weight", (vocabulary, width))
        made[f"{decoder}.bias"] = _normal(seed, "head.decoder.bias", (vocabulary,)) - 1.0
    return made


def write_splade(
    folder: str | Path,
    architecture: str = "bert",
    *,
    strategy: str = "max",
    activation: str = "relu",
    dtype: str = "float32",
    plain: bool = False,
    old_keys: bool = False,
    untied: bool = False,
    max_active_dims: int | None = None,
    seed: int = 0,
    hidden: int = 32,
    without: str | None = None,
    **settings: Any,
) -> Path:
    """A folder of sentence-transformers' SparseEncoder with SpladePooling.

    Args:
        folder: made if need be.
        architecture: which encoder.
        strategy, activation: of SpladePooling.
        dtype: stored dtype of everything.
        plain: no modules.json: what transformers saves of a *ForMaskedLM.
        old_keys: the class MLMTransformer, whose settings name no task.
        untied: a decoder with a matrix and a bias of its own.
        max_active_dims: of config_sentence_transformers.json.
        seed: of every weight.
        hidden: size of the encoder.
        without: a tensor of the head that is left out.
        settings: more for `tiny.write_checkpoint`.
    """
    folder = Path(folder)
    prefix = _NAMES[architecture][0]
    classes = {"architectures": [_CLASSES[architecture]], **settings.pop("config", {})}
    tiny.write_checkpoint(
        folder, architecture, dtype=dtype, seed=seed, hidden=hidden, prefix=prefix, pooler=False,
        config=classes, **settings,
    )  # fmt: skip
    path = folder / "model.safetensors"
    tensors = load_file(path)
    vocabulary = len(tensors[f"{prefix}embeddings.word_embeddings.weight"])
    embedding = settings.get("embedding")
    made = head(architecture, vocabulary, hidden, seed, untied=untied, embedding=embedding)
    tensors |= {name: value.to(getattr(torch, dtype)) for name, value in made.items() if name != without}
    save_file(tensors, path, metadata={"format": "pt"})
    if plain:
        return folder
    pooling = {
        "pooling_strategy": strategy,
        "activation_function": activation,
        "word_embedding_dimension" if old_keys else "embedding_dimension": vocabulary,
    }
    _write_stack(folder, [("SpladePooling", pooling)], "fill-mask", old_keys, max_active_dims)
    return folder


def write_csr(
    folder: str | Path,
    *,
    width: int = 48,
    k: int = 8,
    normalize: bool = False,
    dtype: str = "float32",
    max_active_dims: int | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """A folder of a SparseEncoder with mean pooling and SparseAutoEncoder.

    Args:
        folder: made if need be.
        width: of the sparse vectors.
        k, normalize: of SparseAutoEncoder.
        dtype: stored dtype of everything.
        max_active_dims: of config_sentence_transformers.json.
        seed: of every weight.
        settings: changes to the module's config.json.
    """
    folder, hidden = Path(folder), 32
    tiny.write_checkpoint(folder, "bert", dtype=dtype, seed=seed)
    encoder = {
        "input_dim": hidden,
        "hidden_dim": width,
        "k": k,
        "k_aux": 16,
        "normalize": normalize,
        "dead_threshold": 30,
        **(settings or {}),
    }
    pooling = {"embedding_dimension": hidden, "pooling_mode": "mean", "include_prompt": True}
    _write_stack(
        folder,
        [("Pooling", pooling), ("SparseAutoEncoder", encoder)],
        "feature-extraction",
        False,
        max_active_dims,
    )
    tensors = {
        "decoder.linear.weight": _normal(seed, "csr.weight", (width, hidden)),
        "latent_bias": _normal(seed, "csr.latent_bias", (width,)),
        "pre_bias": _normal(seed, "csr.pre_bias", (hidden,)),
    }
    stored = {name: value.to(getattr(torch, dtype)) for name, value in tensors.items()}
    stored["stats_last_nonzero"] = torch.zeros(width, dtype=torch.int64)
    # As safetensors writes a tensor that the module has under two names.
    save_file(
        stored,
        folder / "2_SparseAutoEncoder" / "model.safetensors",
        metadata={"encoder.weight": "decoder.linear.weight"},
    )
    return folder


def write_routes(folder: str | Path, **settings: Any) -> Path:
    """A SPLADE folder whose queries are pooled by the sum, and documents by the maximum."""
    folder = write_splade(folder, **settings)
    splade, router = folder / "1_SpladePooling", folder / "1_Router"
    router.mkdir()
    structure = {}
    for route, strategy in (("query", "sum"), ("document", "max")):
        name = f"{route}_0_SpladePooling"
        (router / name).mkdir()
        config = json.loads((splade / "config.json").read_text(encoding="utf-8"))
        _json(router / name / "config.json", {**config, "pooling_strategy": strategy})
        structure[route] = [name]
    for file in splade.iterdir():
        file.unlink()
    splade.rmdir()
    types = {name: _FOLDERS["SpladePooling"] for names in structure.values() for name in names}
    parameters = {"default_route": "document", "allow_empty_key": True, "route_mappings": {}}
    _json(router / "router_config.json", {"types": types, "structure": structure, "parameters": parameters})
    first, pooling = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    reference = "sentence_transformers.base.modules.router.Router"
    _json(folder / "modules.json", [first, {**pooling, "path": "1_Router", "type": reference}])
    return folder


_FOLDERS = {
    "SpladePooling": "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling",
    "SparseAutoEncoder": "sentence_transformers.sparse_encoder.modules.sparse_auto_encoder.SparseAutoEncoder",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
}


def _write_stack(
    folder: Path,
    modules: list[tuple[str, dict[str, Any]]],
    task: str,
    old_keys: bool,
    max_active_dims: int | None,
) -> None:
    """The files that sentence-transformers puts beside an encoder."""
    old = "sentence_transformers.sparse_encoder.models"
    first = (
        f"{old}.MLMTransformer" if old_keys else "sentence_transformers.base.modules.transformer.Transformer"
    )
    entries = [{"idx": 0, "name": "0", "path": "", "type": first}]
    for place, (name, settings) in enumerate(modules, start=1):
        path = f"{place}_{name}"
        reference = f"{old}.{name}" if old_keys else _FOLDERS[name]
        entries.append({"idx": place, "name": str(place), "path": path, "type": reference})
        (folder / path).mkdir(exist_ok=True)
        _json(folder / path / "config.json", settings)
    _json(folder / "modules.json", entries)
    output = "logits" if task == "fill-mask" else "last_hidden_state"
    new = {
        "transformer_task": task,
        "modality_config": {"text": {"method": "forward", "method_output_name": output}},
        "module_output_name": "token_embeddings",
    }
    old_settings = {"max_seq_length": 60, "do_lower_case": False}
    _json(folder / "sentence_bert_config.json", old_settings if old_keys else new)
    top: dict[str, Any] = {"model_type": "SparseEncoder", "similarity_fn_name": "dot"}
    if max_active_dims is not None:
        top["max_active_dims"] = max_active_dims
    _json(folder / "config_sentence_transformers.json", top)


def _normal(seed: int, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return torch.from_numpy((0.2 * generator.standard_normal(shape)).astype(np.float32))


def _json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
