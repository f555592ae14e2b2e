"""What config.json says of a decoder, checked for what ours would silently do differently."""

from __future__ import annotations

__all__ = ["DECODERS", "DecoderSizes", "decoder_settings"]

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.errors import CheckpointError

DECODERS = ("qwen3",)

_ELSE = "Use sentence-transformers for this model."
# What transformers takes where config.json says nothing.
_DEFAULTS: Mapping[str, object] = {
    "num_key_value_heads": 32,
    "head_dim": 128,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "tie_word_embeddings": False,
}
_ROPE_THETA = 10_000.0
_MOST = 1 << 31


@dataclass(frozen=True, slots=True)
class DecoderSizes:
    """Widths of a decoder's layers.

    Attributes:
        queries: of all queries of a token, every head's.
        keys: of all its keys, or all its values.
        numbers: weights of the linear layers of one layer.
        widest: most numbers of one token that exist at a time within a layer.
    """

    queries: int
    keys: int
    numbers: int
    widest: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> DecoderSizes:
        """Of what `decoder_settings` has checked."""
        hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
        queries = int(config["num_attention_heads"]) * int(config["head_dim"])
        keys = int(config["num_key_value_heads"]) * int(config["head_dim"])
        return cls(
            queries,
            keys,
            numbers=hidden * (queries + 2 * keys) + queries * hidden + 3 * hidden * inner,
            # What came in, its norm and what comes out, beside three of the feed-forward net, or queries as
            # they are, placed, mixed and laid end to end: so much was measured at 5,000 tokens.
            widest=4 * hidden + max(3 * inner, 6 * queries + 4 * keys),
        )


def decoder_settings(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a decoder with nothing left to be assumed; `rope_theta` wherever it was.

    Args:
        path: config.json, for messages.
        config: what it says.

    Raises:
        CheckpointError: a setting cannot be, or asks for what is not done here.
    """
    found = {key: config.get(key, default) for key, default in _DEFAULTS.items()}
    if found["num_key_value_heads"] is None:
        found["num_key_value_heads"] = config.get("num_attention_heads")
    for key in ("num_attention_heads", "num_key_value_heads", "head_dim"):
        value = found.get(key, config.get(key))
        if type(value) is not int or not 0 < value < _MOST:
            raise CheckpointError(
                f"{path}: {key!r} is {value!r}, expected a positive number. Fetch or save it again."
            )
    heads, keys = int(config["num_attention_heads"]), int(str(found["num_key_value_heads"]))
    if heads % keys:
        raise CheckpointError(
            f"{path}: num_attention_heads {heads} is not a multiple of num_key_value_heads {keys}. The file "
            "is damaged or was edited; fetch it again."
        )
    if int(str(found["head_dim"])) % 2:
        raise CheckpointError(
            f"{path}: head_dim {found['head_dim']} is odd, and rotary positions turn pairs. Fetch it again."
        )
    epsilon = found["rms_norm_eps"]
    if type(epsilon) not in (int, float) or not 0 <= float(str(epsilon)) < 1:
        raise CheckpointError(
            f"{path}: 'rms_norm_eps' is {epsilon!r}, expected a small positive number. Fetch it again."
        )
    for key in ("attention_bias", "tie_word_embeddings"):
        if type(found[key]) is not bool:
            raise CheckpointError(f"{path}: {key!r} is {found[key]!r}, expected true or false. Correct it.")
    found["rope_theta"] = _rope_theta(path, config)
    _refuse_windows(path, config)
    if config.get("is_causal") is False or config.get("use_bidirectional_attention"):
        raise CheckpointError(
            f"{path}: attention in both directions is asked for (is_causal, use_bidirectional_attention); "
            f"here a token looks at those before it alone. {_ELSE}"
        )
    return found


def _rope_theta(path: Path, config: Mapping[str, Any]) -> float:
    """The base of rotary positions; only the plain kind is done here."""
    places = [
        (key, value) for key in ("rope_parameters", "rope_scaling") if (value := config.get(key)) is not None
    ]
    theta = config.get("rope_theta")
    for key, value in places:
        if not isinstance(value, dict):
            raise CheckpointError(f"{path}: {key!r} is {value!r}, expected a JSON object. Correct it.")
        kind = value.get("rope_type", value.get("type", "default"))
        if kind != "default":
            raise CheckpointError(
                f"{path}: {key} asks for rotary positions of type {kind!r}; only 'default' is supported. "
                f"{_ELSE}"
            )
        theta = value.get("rope_theta", theta)
    theta = _ROPE_THETA if theta is None else theta
    if type(theta) not in (int, float) or not 0 < theta < float("inf"):
        raise CheckpointError(f"{path}: 'rope_theta' is {theta!r}, expected a positive number. Correct it.")
    return float(theta)


def _refuse_windows(path: Path, config: Mapping[str, Any]) -> None:
    """An error where a layer looks no further back than a window."""
    kinds = config.get("layer_types")
    if kinds is None:
        slides = bool(config.get("use_sliding_window")) and config.get("sliding_window", 4096) is not None
        layers, before = config.get("num_hidden_layers"), config.get("max_window_layers", 28)
        # Those from max_window_layers on.
        slides = slides and not (isinstance(layers, int) and isinstance(before, int) and layers <= before)
        kinds = ["sliding_attention"] if slides else []
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise CheckpointError(
            f"{path}: layers look back through a window (sliding_window, layer_types), which is not "
            f"supported: every layer sees the whole text here. {_ELSE}"
        )
