"""The encoder's part of a folder: config.json, the names of its tensors, and how long a text may be."""

from __future__ import annotations

__all__ = ["ARCHITECTURES", "BIASED", "position_limit", "read_encoder_config", "sort_tensors"]

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tercet.checkpoint.decoder_files import DECODERS, decoder_settings
from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.paths import inside, read_json_object
from tercet.checkpoint.unknown import advice, looks_like
from tercet.errors import CheckpointError

ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "mpnet", *DECODERS)
# Those whose attention adds a bias to each score.
BIASED = ("mpnet",)

# config.json from before transformers 3 names no model_type.
_BY_CLASS = (
    ("XLMRoberta", "xlm-roberta"),
    ("Roberta", "roberta"),
    ("Bert", "bert"),
    ("DistilBert", "distilbert"),
    ("Electra", "electra"),
    ("MPNet", "mpnet"),
)
_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)
# Keys that an architecture has under names of its own: ours -> its.
_OWN_KEYS: Mapping[str, Mapping[str, str]] = {
    "distilbert": {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
    }
}
# RoBERTa's positions begin behind the row of its padding token; these begin at the first row.
_FROM_FIRST_ROW = ("bert", "distilbert", "electra", *DECODERS)
_PREFIXES = (
    "bert.",
    "roberta.",
    "xlm_roberta.",
    "distilbert.",
    "electra.",
    "mpnet.",
    "model.",
    "module.",
    "auto_model.",
    "0.",
)
_OLD_LEAVES = {"gamma": "weight", "beta": "bias"}
# What an embedding never uses: the pooler, heads of pre-training, buffers of old transformers.
_UNUSED = re.compile(
    r"pooler\.|cls\.(predictions|seq_relationship)\.|lm_head\.|embeddings\.(position_ids|token_type_ids)$"
    r"|vocab_(transform|layer_norm|projector)\."  # DistilBERT's language-model head
    r"|(discriminator|generator)_predictions\.|generator_lm_head\."  # ELECTRA's
)


def read_encoder_config(folder: Path, relative: str) -> tuple[str, dict[str, Any]]:
    """The architecture, and config.json checked for what our encoders would silently do differently.

    Where an architecture has other names for BERT's keys, its values are under BERT's, too.

    Raises:
        CheckpointError: the file is missing or damaged, or describes another kind of model.
    """
    path = inside(folder, f"{relative}/config.json" if relative else "config.json", said_by="modules.json")
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing: {path.parent} is not a model folder. {_nearby(path.parent)}"
        )
    config = read_json_object(path)
    architecture = _architecture(path, config)
    own = _OWN_KEYS.get(architecture, {})
    config |= {ours: config[theirs] for ours, theirs in own.items() if theirs in config}
    for key in _SIZES:
        value = config.get(key)
        if type(value) is not int or value < 1:
            raise CheckpointError(
                f"{path}: {own.get(key, key)!r} is {value!r}, expected a positive number. "
                "Fetch or save it again."
            )
    if architecture in DECODERS:
        config |= decoder_settings(path, config)
    elif config["hidden_size"] % config["num_attention_heads"]:
        width, heads = (own.get(key, key) for key in ("hidden_size", "num_attention_heads"))
        raise CheckpointError(
            f"{path}: {width} {config['hidden_size']} is not a multiple of {heads} "
            f"{config['num_attention_heads']}. The file is damaged or was edited; fetch it again."
        )
    epsilon = config.get("layer_norm_eps", 1e-12)
    if type(epsilon) not in (int, float) or not 0 <= epsilon < 1:
        raise CheckpointError(
            f"{path}: 'layer_norm_eps' is {epsilon!r}, expected a small positive number. Fetch it again."
        )
    padding = config.get("pad_token_id")
    if padding is not None and type(padding) is not int:
        raise CheckpointError(f"{path}: 'pad_token_id' is {padding!r}, expected a number. Fetch it again.")
    if position_limit(architecture, config) < 1:
        raise CheckpointError(
            f"{path}: with pad_token_id {padding!r} no position is left of the "
            f"{config['max_position_embeddings']} that max_position_embeddings gives. Fetch it again."
        )
    position_type = config.get("position_embedding_type") or "absolute"
    if position_type != "absolute":
        raise CheckpointError(
            f"{path}: position_embedding_type is {position_type!r}; only 'absolute' is supported. "
            "Use another model, or sentence-transformers for this one."
        )
    for key in ("is_decoder", "add_cross_attention"):
        if config.get(key):
            raise CheckpointError(
                f"{path}: {key!r} is true; an embedding needs an encoder. Use another model."
            )
    if config.get("quantization_config"):
        raise CheckpointError(
            f"{path}: the weights are quantised (quantization_config). Load the unquantised model; the "
            "precision is chosen on loading."
        )
    return architecture, config


def _architecture(path: Path, config: Mapping[str, Any]) -> str:
    found = config.get("model_type")
    classes = config.get("architectures")
    if classes is not None and not isinstance(classes, list):
        raise CheckpointError(f"{path}: 'architectures' is {classes!r}, expected a list. Correct it.")
    first = classes[0] if isinstance(classes, list) and classes and isinstance(classes[0], str) else ""
    if found is None:
        found = next((name for start, name in _BY_CLASS if first.startswith(start)), None)
    if found not in ARCHITECTURES:
        raise CheckpointError(
            f"{path} describes a model of type {found!r} ({first or 'no architecture named'}). "
            f"Supported: {', '.join(ARCHITECTURES)}. {advice(config)}"
        )
    return str(found)


def sort_tensors(
    tensors: Mapping[str, TensorInfo],
) -> tuple[dict[str, TensorInfo], dict[str, TensorInfo]]:
    """The tensors by the encoder's own names, and those that no embedding uses by the names of the file.

    What is not known stays among the first: the model refuses it by name.
    """
    used: dict[str, TensorInfo] = {}
    unused: dict[str, TensorInfo] = {}
    for stored, info in tensors.items():
        name = own_name(stored)
        if _UNUSED.match(name):
            unused[stored] = info
            continue
        if name in used:
            raise CheckpointError(
                f"{info.file}: {stored!r} and {used[name].name!r} are the same tensor of the encoder, "
                f"{name!r}. Remove one of them; it is not known which is meant."
            )
        used[name] = info
    return used, unused


def own_name(stored: str) -> str:
    """The encoder's name of a tensor: known prefixes removed, TensorFlow's gamma and beta translated."""
    name = stored
    while (start := next((p for p in _PREFIXES if name.startswith(p)), None)) is not None:
        name = name[len(start) :]
    stem, _, leaf = name.rpartition(".")
    if stem.endswith("LayerNorm") and leaf in _OLD_LEAVES:
        return f"{stem}.{_OLD_LEAVES[leaf]}"
    return name


def position_limit(architecture: str, config: Mapping[str, Any]) -> int:
    """Most tokens that the position table holds; RoBERTa and MPNet use no row up to the padding index."""
    positions = int(config["max_position_embeddings"])
    if architecture in _FROM_FIRST_ROW:
        return positions
    if architecture == "mpnet":  # its padding is the same in every checkpoint
        return positions - 2
    padding = config.get("pad_token_id")
    return positions - (1 if padding is None else int(padding)) - 1


def _nearby(folder: Path) -> str:
    """A hint where the model may be meant: folders of training runs hold checkpoints one level down."""
    if not folder.is_dir():
        return "The folder does not exist."
    below = sorted(path.parent.name for path in folder.glob("*/config.json"))
    if below:
        return f"Did you mean one of the folders in it: {', '.join(below[:5])}?"
    return looks_like(folder) or "Give the folder that save_pretrained or sentence-transformers wrote."
