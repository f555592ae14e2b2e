"""Random stacks around encoders that Tercet merges and does not run: ModernBERT and Qwen3, in tiny folders.

Needs what `tiny` needs, so that it also runs where the peers are installed.
"""

from __future__ import annotations

__all__ = ["write_foreign"]

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import tiny

_HIDDEN, _LAYERS, _HEADS, _KEY_HEADS, _INNER = 32, 2, 4, 2, 48
_TABLES = {"modernbert": "embeddings.tok_embeddings.weight", "qwen3": "embed_tokens.weight"}


def write_foreign(
    folder: str | Path,
    kind: Literal["modernbert", "qwen3"],
    *,
    modules: Sequence[tiny.Module] = ("pooling", "normalize"),
    seed: int = 0,
) -> Path:
    """A sentence-transformers folder of today; ModernBERT's with BERT's tokenizer, Qwen3's with BPE."""
    folder = tiny.write_checkpoint(
        folder,
        "bert" if kind == "modernbert" else "roberta",
        layout="sentence-transformers",
        modules=modules,
        hidden=_HIDDEN,
        seed=seed,
    )
    path = folder / "model.safetensors"
    vocabulary = len(load_file(path)["embeddings.word_embeddings.weight"])
    shapes = _modernbert() if kind == "modernbert" else _qwen3()
    shapes = {_TABLES[kind]: (vocabulary, _HIDDEN), **shapes}
    save_file(
        {name: _random(seed, name, shape) for name, shape in shapes.items()}, path, metadata={"format": "pt"}
    )
    _json(folder / "config.json", _config(kind, vocabulary))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    _json(
        folder / "tokenizer_config.json", {**settings, "model_input_names": ["input_ids", "attention_mask"]}
    )
    return folder


def _modernbert() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"embeddings.norm.weight": (_HIDDEN,)}
    for layer in range(_LAYERS):
        start = f"layers.{layer}"
        if layer:  # the first layer has the embeddings' own normalisation before it
            shapes[f"{start}.attn_norm.weight"] = (_HIDDEN,)
        shapes |= {
            f"{start}.attn.Wqkv.weight": (3 * _HIDDEN, _HIDDEN),
            f"{start}.attn.Wo.weight": (_HIDDEN, _HIDDEN),
            f"{start}.mlp_norm.weight": (_HIDDEN,),
            f"{start}.mlp.Wi.weight": (2 * _INNER, _HIDDEN),
            f"{start}.mlp.Wo.weight": (_HIDDEN, _INNER),
        }
    return {**shapes, "final_norm.weight": (_HIDDEN,)}


def _qwen3() -> dict[str, tuple[int, ...]]:
    width = _HIDDEN // _HEADS
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(_LAYERS):
        start = f"layers.{layer}"
        shapes |= {
            f"{start}.self_attn.q_proj.weight": (_HIDDEN, _HIDDEN),
            f"{start}.self_attn.k_proj.weight": (_KEY_HEADS * width, _HIDDEN),
            f"{start}.self_attn.v_proj.weight": (_KEY_HEADS * width, _HIDDEN),
            f"{start}.self_attn.o_proj.weight": (_HIDDEN, _HIDDEN),
            f"{start}.self_attn.q_norm.weight": (width,),
            f"{start}.self_attn.k_norm.weight": (width,),
            f"{start}.mlp.gate_proj.weight": (_INNER, _HIDDEN),
            f"{start}.mlp.up_proj.weight": (_INNER, _HIDDEN),
            f"{start}.mlp.down_proj.weight": (_HIDDEN, _INNER),
            f"{start}.input_layernorm.weight": (_HIDDEN,),
            f"{start}.post_attention_layernorm.weight": (_HIDDEN,),
        }
    return {**shapes, "norm.weight": (_HIDDEN,)}


def _config(kind: str, vocabulary: int) -> dict[str, Any]:
    both = {
        "dtype": "float32",
        "hidden_size": _HIDDEN,
        "intermediate_size": _INNER,
        "max_position_embeddings": 66,
        "model_type": kind,
        "num_attention_heads": _HEADS,
        "num_hidden_layers": _LAYERS,
        "transformers_version": "5.23.0",
        "vocab_size": vocabulary,
    }
    if kind == "modernbert":
        names = tiny.tokenizer("bert").get_vocab()
        first, last = names["[CLS]"], names["[SEP]"]
        return {
            **both,
            "architectures": ["ModernBertModel"],
            "hidden_activation": "gelu",
            "layer_types": ["full_attention", "sliding_attention"],
            "local_attention": 8,
            "norm_eps": 1e-05,
            "pad_token_id": 0,
            **{"cls_token_id": first, "bos_token_id": first, "sep_token_id": last, "eos_token_id": last},
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        }
    return {
        **both,
        "architectures": ["Qwen3Model"],
        "hidden_act": "silu",
        "head_dim": _HIDDEN // _HEADS,
        "layer_types": ["full_attention"] * _LAYERS,
        "num_key_value_heads": _KEY_HEADS,
        "pad_token_id": 1,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    }


def _random(seed: int, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """By its name, the same everywhere; what normalises lies around 1."""
    values = 0.2 * np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
    return torch.from_numpy((values + (len(shape) == 1)).astype(np.float32))


def _json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
