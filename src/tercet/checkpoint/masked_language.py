"""The masked-language head of a checkpoint: the tensors that give each token a number for every word."""

from __future__ import annotations

__all__ = ["read_masked_language_head"]

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tercet.checkpoint.contents import ModuleSpec
from tercet.checkpoint.header import TensorInfo
from tercet.errors import CheckpointError

_WORDS = "embeddings.word_embeddings.weight"


@dataclass(frozen=True, slots=True)
class _Names:
    """Where an architecture keeps the head: names of the file, without the encoder's prefix."""

    dense: str
    norm: str
    decoder: str
    bias: str
    activation: str | None  # the setting of config.json; None where it is always gelu


_BERT = _Names(
    "cls.predictions.transform.dense",
    "cls.predictions.transform.LayerNorm",
    "cls.predictions.decoder",
    "cls.predictions.bias",
    "hidden_act",
)
_ROBERTA = _Names("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias", None)
_DISTILBERT = _Names(
    "vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias", "activation"
)
# Of the generator; it is as wide as the embeddings, which may be narrower than the layers.
_ELECTRA = _Names(
    "generator_predictions.dense",
    "generator_predictions.LayerNorm",
    "generator_lm_head",
    "generator_lm_head.bias",
    None,
)
_HEADS = {"bert": _BERT, "roberta": _ROBERTA, "xlm-roberta": _ROBERTA, "mpnet": _ROBERTA}
_HEADS |= {"distilbert": _DISTILBERT, "electra": _ELECTRA}


def read_masked_language_head(
    folder: Path,
    architecture: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    unused: Mapping[str, TensorInfo],
    modules: tuple[ModuleSpec, ...],
) -> tuple[tuple[ModuleSpec, ...], dict[str, TensorInfo]]:
    """The modules, SPLADE's pooling among them with the head's tensors, and what is still of no use.

    A decoder without a matrix of its own shares the word embeddings. One that is stored is taken, whatever
    `tie_word_embeddings` says, as transformers does.

    Args:
        folder: for errors.
        architecture: config.json's.
        config: config.json.
        tensors: the encoder's, by its own names.
        unused: the others, by the names of the file.
        modules: what stands behind the encoder; without SPLADE's pooling nothing changes.

    Raises:
        CheckpointError: there is no such head, it is not whole, or does not fit the encoder.
    """
    spec = next((module for module in modules if module.kind == "splade_pooling"), None)
    if spec is None:
        return modules, dict(unused)
    if architecture not in _HEADS:
        raise CheckpointError(
            f"{folder}: SPLADE needs a masked-language head, and that of {architecture} is not known. "
            f"Known: {', '.join(_HEADS)}."
        )
    names = _HEADS[architecture]
    wanted = {
        "dense.weight": (f"{names.dense}.weight",),
        "dense.bias": (f"{names.dense}.bias",),
        "norm.weight": (f"{names.norm}.weight", f"{names.norm}.gamma"),
        "norm.bias": (f"{names.norm}.bias", f"{names.norm}.beta"),
        "decoder.weight": (f"{names.decoder}.weight",),
        "decoder.bias": (f"{names.decoder}.bias", names.bias),
    }
    stored = {ours: _among(unused, theirs) for ours, theirs in wanted.items()}
    found = {ours: unused[files[0]] for ours, files in stored.items() if files}
    if "decoder.weight" not in found and config.get("tie_word_embeddings", True) and _WORDS in tensors:
        found["decoder.weight"] = tensors[_WORDS]
    missing = [theirs[0] for ours, theirs in wanted.items() if ours not in found]
    if missing:
        raise CheckpointError(
            f"{folder}: SPLADE needs the masked-language head, and the weights have no {', '.join(missing)}. "
            "They were saved without it; fetch the *ForMaskedLM model, or pass pooling='mean' for dense "
            "vectors."
        )
    hidden, vocabulary = int(config["hidden_size"]), int(config["vocab_size"])
    width = tensors[_WORDS].shape[-1] if architecture == "electra" and _WORDS in tensors else hidden
    shapes = {
        "dense.weight": (width, hidden),
        "decoder.weight": (vocabulary, width),
        "decoder.bias": (vocabulary,),
    }
    for ours, info in found.items():
        if info.shape != (shape := shapes.get(ours, (width,))) or not info.is_float:
            raise CheckpointError(
                f"{info.file}: {info.name!r} is {info.shape} in {info.dtype}, config.json makes it {shape} "
                "of floating-point numbers. Put the config.json that was saved with these weights beside "
                "them."
            )
    settings = {
        **spec.config,
        "hidden_act": "gelu" if names.activation is None else str(config.get(names.activation, "gelu")),
        "layer_norm_eps": float(config.get("layer_norm_eps", 1e-12)),
    }
    used = {name for files in stored.values() for name in files}
    left = {name: info for name, info in unused.items() if name not in used}
    whole = replace(spec, config=settings, tensors=found, as_stored=("decoder.weight",))
    return tuple(whole if module is spec else module for module in modules), left


def _among(unused: Mapping[str, TensorInfo], names: tuple[str, ...]) -> list[str]:
    """Which of the names the file has, the first one first; a prefix such as "model." does not count."""
    return [stored for name in names for stored in unused if stored == name or stored.endswith(f".{name}")]
