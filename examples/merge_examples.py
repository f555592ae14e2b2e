"""Six recipes of the kinds that mergekit's own examples show, on tiny Llama checkpoints with random weights.

Linear, slerp with gradients, ties with gradients and filters, entries dropped at random, two models' layers
in a row, and arcee_fusion. Where transformers is installed it runs each result; logits must be finite.

    pip install 'tercet[merge,transformers]'
    python examples/merge_examples.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

import tercet
from tercet.workflows.merge import Merged

HIDDEN, WIDE, LAYERS, HEADS, VOCABULARY = 32, 64, 5, 4, 96
MODELS = ("base", "one", "two", "three")

RECIPES = {
    "linear": """
models:
  - {model: one, parameters: {weight: 1.0}}
  - {model: two, parameters: {weight: 0.3}}
  - {model: three, parameters: {weight: 0.5}}
merge_method: linear
dtype: float16
""",
    "gradient-slerp": """
slices:
  - sources:
      - {model: one, layer_range: [0, 5]}
      - {model: two, layer_range: [0, 5]}
merge_method: slerp
base_model: one
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
    - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
    - value: 0.5
dtype: float16
""",
    "ties": """
models:
  - model: one
    parameters: {density: [1, 0.7, 0.1], weight: 1.0}
  - model: two
    parameters: {density: 0.5, weight: [0, 0.3, 0.7, 1]}
  - model: three
    parameters:
      density: 0.33
      weight:
        - {filter: mlp, value: 0.5}
        - value: 0
merge_method: ties
base_model: base
parameters: {normalize: true, int8_mask: true}
dtype: float16
""",
    "bio-merge": """
models:
  - model: base
  - {model: one, parameters: {density: 0.53, weight: 0.4}}
  - {model: two, parameters: {density: 0.53, weight: 0.3}}
merge_method: dare_ties
base_model: base
parameters: {int8_mask: true}
dtype: bfloat16
""",
    "orcamini-platy-44layer": """
slices:
  - sources: [{model: one, layer_range: [0, 3]}]
  - sources: [{model: two, layer_range: [2, 5]}]
merge_method: passthrough
dtype: float16
""",
    "arcee_fusion": """
models:
  - model: base
  - model: one
merge_method: arcee_fusion
base_model: base
dtype: bfloat16
""",
}


def main() -> None:
    """Merges all six in a temporary folder, and prints what came of each."""
    with tempfile.TemporaryDirectory() as root:
        for name, merged in run(Path(root)).items():
            total = merged.report.total
            print(f"{name:24} {total.dtype:9} relative error {total.relative_error:.1e}  {merged.tried}")


def run(root: Path) -> dict[str, Merged]:
    """Name of a recipe -> its merge, of checkpoints that are written into `root`."""
    for seed, name in enumerate(MODELS):
        write_llama(root / name, seed)
    merged = {}
    for name, text in RECIPES.items():
        path = root / f"{name}.yml"
        for model in MODELS:
            text = text.replace(f"model: {model}\n", f"model: {root / model}\n")
            text = text.replace(f"model: {model},", f"model: {root / model},")
        path.write_text(text, encoding="utf-8")
        merged[name] = tercet.merge(path, root / f"{name}-merged")
    return merged


def write_llama(folder: Path, seed: int) -> None:
    """A checkpoint as transformers saves a LlamaForCausalLM; other seeds are seed 0 and a small change."""
    folder.mkdir()
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    shapes["lm_head.weight"] = (VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {f"{at}.mlp.{name}_proj.weight": (WIDE, HIDDEN) for name in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj.weight"] = (HIDDEN, WIDE)
        shapes |= {f"{at}.{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    common, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        start = 1.0 if "norm" in name else 0.0
        weight = start + 0.1 * torch.randn(shape, generator=common)
        tensors[name] = (weight + (0.02 if seed else 0.0) * torch.randn(shape, generator=own)).bfloat16()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": WIDE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
