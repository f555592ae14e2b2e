"""An encoder's body in float64, as plain as its papers: loops over texts and heads, nothing packed.

What every engine is compared with. It reads the files by itself and shares no line with Tercet.
"""

from __future__ import annotations

__all__ = ["ReferenceEncoder"]

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import load

Array = NDArray[np.float64]

_ROWS = 1024  # of an attention matrix that are made at a time

# Names of other encoders -> BERT's; where one is the end of another, the longer stands first.
_NAMES = {
    "transformer.layer.": "encoder.layer.",
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "output_layer_norm": "output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "attention.attn.q": "attention.self.query",
    "attention.attn.k": "attention.self.key",
    "attention.attn.v": "attention.self.value",
    "attention.attn.o": "attention.output.dense",
    "attention.LayerNorm": "attention.output.LayerNorm",
}
_KEYS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "activation": "hidden_act",
}


def _tanh_gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_new": _tanh_gelu,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


@cache
def _bucket(distance: int) -> int:
    """The row for a key so far behind its query (Raffel et al. 2020): 8 near ones, 8 growing, each side."""
    side = 16 if distance > 0 else 0
    far = abs(distance)
    if far < 8:
        return side + far
    # 8 * 16 ** (step / 8) is where a step begins, and these are compared in whole numbers.
    step = next(step for step in range(8, -1, -1) if far**8 >= 8**8 * 16**step)
    return side + min(8 + step, 15)


class ReferenceEncoder:
    """The encoder of a plain Hugging Face folder.

    Attributes:
        largest_inside: largest absolute value that the feed-forward nets of each text of the last call had
            between their two products.
    """

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._config = {"layer_norm_eps": 1e-12} | {_KEYS.get(key, key): config[key] for key in config}
        if (folder / "model.safetensors").exists():
            stored = load_file(folder / "model.safetensors")
        else:
            stored = load(folder / "pytorch_model.bin", weights_only=True)
        ours = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
        self._weights: dict[str, Array] = {}
        for name, tensor in stored.items():
            for theirs, plain in ours.items():
                name = name.replace(theirs, plain)
            for theirs, plain in _NAMES.items():
                name = name.replace(theirs, plain)
            parts = ("embeddings.", "embeddings_project.", "encoder.", "pooler.")
            start = max(name.find(part) for part in parts)
            self._weights[name[start:]] = tensor.double().numpy()
        self.largest_inside: list[float] = []

    def forward(self, texts: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None) -> Array:
        """(tokens, hidden) of the last layer, the texts' token ids one after the other."""
        self.largest_inside = []
        kinds = types or [[0] * len(ids) for ids in texts]
        return np.concatenate([self._text(ids, kind) for ids, kind in zip(texts, kinds, strict=True)])

    def _text(self, ids: Sequence[int], types: Sequence[int]) -> Array:
        weights, config = self._weights, self._config
        from_first_row = config["model_type"] in ("bert", "distilbert", "electra")
        first = 0 if from_first_row else config["pad_token_id"] + 1
        x = weights["embeddings.word_embeddings.weight"][list(ids)]
        x = x + weights["embeddings.position_embeddings.weight"][first : first + len(ids)]
        if "embeddings.token_type_embeddings.weight" in weights:
            x = x + weights["embeddings.token_type_embeddings.weight"][list(types)]
        x = self._norm(x, "embeddings.LayerNorm")
        if "embeddings_project.weight" in weights:
            x = self._linear(x, "embeddings_project")
        self.largest_inside.append(0.0)
        for layer in range(config["num_hidden_layers"]):
            start = f"encoder.layer.{layer}"
            mixed = self._linear(
                self._attention(x, f"{start}.attention.self"), f"{start}.attention.output.dense"
            )
            x = self._norm(x + mixed, f"{start}.attention.output.LayerNorm")
            inner = _ACTIVATIONS[config["hidden_act"]](self._linear(x, f"{start}.intermediate.dense"))
            self.largest_inside[-1] = max(self.largest_inside[-1], float(np.abs(inner).max()))
            x = self._norm(x + self._linear(inner, f"{start}.output.dense"), f"{start}.output.LayerNorm")
        return x

    def _attention(self, x: Array, name: str) -> Array:
        heads = self._config["num_attention_heads"]
        width = x.shape[1] // heads
        query, key, value = (self._linear(x, f"{name}.{part}") for part in ("query", "key", "value"))
        mixed = np.empty_like(x)
        for head in range(heads):
            columns = slice(head * width, (head + 1) * width)
            for row in range(0, len(x), _ROWS):
                scores = query[row : row + _ROWS, columns] @ key[:, columns].T / math.sqrt(width)
                scores = scores + self._bias(head, row, len(scores), len(x))
                shares = np.exp(scores - scores.max(axis=1, keepdims=True))
                mixed[row : row + _ROWS, columns] = (
                    shares / shares.sum(axis=1, keepdims=True) @ value[:, columns]
                )
        return mixed

    def _bias(self, head: int, first: int, queries: int, keys: int) -> Array:
        """(queries, keys): MPNet's, by how far each key is behind its query; 0 of the others."""
        name = "encoder.relative_attention_bias.weight"
        if name not in self._weights:
            return np.zeros((1, 1))
        distances = np.arange(keys)[None, :] - (first + np.arange(queries))[:, None]
        rows = np.array([_bucket(distance) for distance in range(1 - keys, keys)])
        return self._weights[name][:, head][rows[distances + keys - 1]]

    def _linear(self, x: Array, name: str) -> Array:
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(axis=1, keepdims=True)
        variance = (centred**2).mean(axis=1, keepdims=True)
        scaled = centred / np.sqrt(variance + self._config["layer_norm_eps"])
        return scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
