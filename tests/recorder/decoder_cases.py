"""Decoders that make vectors: tiny folders, and what is asked of them."""

from __future__ import annotations

__all__ = ["BODIES", "EMBEDDERS", "EVERY", "TEXTS", "write_body", "write_embedder"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tiny
import tiny_decoders

TEXTS = (*tiny.TEXTS, "Two cats, three dogs: <|im_start|>which</think> of them?", "x " * 200)
# Of all tokens, so many are recorded: one of so many.
EVERY = 7

# name -> what `tiny_decoders.write_decoder` is given; plain folders, whose hidden states are compared
BODIES: Mapping[str, Mapping[str, Any]] = {
    "of its own names": {"ends": True},
    "a whole language model, sharded": {
        "prefix": "model.",
        "lm_head": True,
        "tied": False,
        "shards": 3,
        "ends": False,
    },
    "every head its own keys, biases": {"key_heads": 4, "attention_bias": True, "seed": 1},
    "one head of keys, three layers, stored in bfloat16": {"key_heads": 1, "layers": 3, "dtype": "bfloat16"},
    "newer settings": {
        "config": {
            "rope_theta": None,
            "rope_scaling": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
            "layer_types": ["full_attention"] * 2,
            "dtype": "float32",
        },
        "max_positions": 40,
        "model_max_length": 40,
    },
    "as few settings as can be": {
        "heads": 2,
        "key_heads": 2,
        "head_width": 128,
        "config": {
            key: None
            for key in (
                "rope_theta",
                "rope_scaling",
                "head_dim",
                "hidden_act",
                "rms_norm_eps",
                "attention_bias",
            )
        },
    },
}

# name -> what `tiny_decoders.write_embedder` is given
EMBEDDERS: Mapping[str, Mapping[str, Any]] = {
    "as Qwen3-Embedding": {"model_max_length": 131072},
    "stored in bfloat16, cut early": {"dtype": "bfloat16", "model_max_length": 12},
    "mean, no end of text": {"pooling": "mean_tokens", "ends": False, "normalize": False},
    "a chat template beside": {"chat_template": "{{ messages[0].content }}!", "seed": 3},
}


def write_body(folder: Path, name: str) -> Path:
    """A case of BODIES."""
    return tiny_decoders.write_decoder(folder, **BODIES[name])


def write_embedder(folder: Path, name: str) -> Path:
    """A case of EMBEDDERS."""
    return tiny_decoders.write_embedder(folder, **EMBEDDERS[name])
