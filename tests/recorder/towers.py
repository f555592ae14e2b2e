"""Two tiny T5 and their merges by mergekit's `modules`; read by the recorder and by the test."""

from __future__ import annotations

__all__ = ["RECIPES", "write"]

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

_WIDTH, _KEYS, _INNER, _WORDS = 4, 2, 6, 10
_LAYERS = {"encoder": 3, "decoder": 2}


def _models(first: str, second: str) -> str:
    return (
        f"models: [{{{{model: {{a}}, parameters: {{{{weight: {first}}}}}}}}}, "
        f"{{{{model: {{b}}, parameters: {{{{weight: {second}}}}}}}}}]"
    )


# with {a} and {b} for the folders; weights change from layer to layer of each tower
RECIPES = {
    "models": f"merge_method: linear\n{_models('[1, 0.2]', '[0.3, 2]')}\n",
    "modules": f"""merge_method: linear
modules:
  decoder: {{{{{_models("[0.5, 3]", "1")}}}}}
  encoder: {{{{{_models("[1, 0.2]", "[0.3, 2]")}}}}}
""",
    "slices": f"""merge_method: linear
parameters: {{{{weight: 1}}}}
modules:
  encoder: {{{{{_models("2", "1")}, parameters: {{{{normalize: false}}}}}}}}
  decoder:
    slices:
      - sources: [{{{{model: {{a}}, layer_range: [0, 1]}}}}, {{{{model: {{b}}, layer_range: [0, 1]}}}}]
      - sources: [{{{{model: {{b}}, layer_range: [1, 2]}}}}]
""",
}


def write(folder: Path) -> dict[str, Path]:
    """The two folders, as transformers saves such models."""
    return {name: _t5(folder / name, seed) for seed, name in enumerate("ab")}


def _t5(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True)
    attention = {**dict.fromkeys("qkv", (2 * _KEYS, _WIDTH)), "o": (_WIDTH, 2 * _KEYS)}
    dense = {"wi_0": (_INNER, _WIDTH), "wi_1": (_INNER, _WIDTH), "wo": (_WIDTH, _INNER)}
    shapes: dict[str, tuple[int, ...]] = {"shared.weight": (_WORDS, _WIDTH)}
    for tower, layers in _LAYERS.items():
        parts = {"SelfAttention": attention}
        parts |= {"EncDecAttention": attention} if tower == "decoder" else {}
        parts |= {"DenseReluDense": dense}
        for layer in range(layers):
            for place, (part, matrices) in enumerate(parts.items()):
                start = f"{tower}.block.{layer}.layer.{place}"
                shapes |= {f"{start}.{part}.{name}.weight": shape for name, shape in matrices.items()}
                shapes[f"{start}.layer_norm.weight"] = (_WIDTH,)
        shapes[f"{tower}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (8, 2)
        shapes[f"{tower}.final_layer_norm.weight"] = (_WIDTH,)
    generator = np.random.default_rng([seed, 5])
    tensors = {
        name: torch.from_numpy(generator.standard_normal(shape).astype(np.float32))
        for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "d_model": _WIDTH,
        "d_kv": _KEYS,
        "d_ff": _INNER,
        "num_heads": 2,
        "num_layers": _LAYERS["encoder"],
        "num_decoder_layers": _LAYERS["decoder"],
        "relative_attention_num_buckets": 8,
        "feed_forward_proj": "gated-gelu",
        "vocab_size": _WORDS,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder
