"""Tiny sentence-transformers folders with modules over token vectors; the same everywhere for one seed.

Needs no more than `tiny`, so that it also runs where the peers are installed.
"""

from __future__ import annotations

__all__ = [
    "cnn",
    "dense",
    "dropout",
    "layer_pooling",
    "lstm",
    "normal",
    "normalize",
    "pooling",
    "put_routes_first",
    "router",
    "scores",
    "word_weights",
    "write_stack",
]

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import tiny

CLASSES = "sentence_transformers.sentence_transformer.modules"
OLD_CLASSES = "sentence_transformers.models"
# (folder, stored dtype) -> (class, width that comes out), given the width that comes in
Part = Callable[[Path, int, str, bool], tuple[str, int]]


def write_stack(
    folder: Path, parts: Sequence[Part], *, dtype: str = "float32", old_keys: bool = False, **settings: Any
) -> Path:
    """A BERT with these modules behind it; `settings` are `tiny.write_checkpoint`'s."""
    tiny.write_checkpoint(
        folder, layout="sentence-transformers", dtype=dtype, old_keys=old_keys, modules=(), **settings
    )
    entries = json.loads((folder / "modules.json").read_text())
    width = settings.get("hidden", 32)
    for place, part in enumerate(parts, start=1):
        made = folder / f"{place}_part"
        made.mkdir()
        name, width = part(made, width, dtype, old_keys)
        path = f"{place}_{name}"
        made.rename(folder / path)
        reference = _reference(name, old_keys)
        entries.append({"idx": place, "name": str(place), "path": path, "type": reference})
    (folder / "modules.json").write_text(json.dumps(entries))
    return folder


def normal(seed: str, shape: tuple[int, ...], scale: float = 0.2) -> torch.Tensor:
    """Random numbers in float32, the same for the same name."""
    generator = np.random.default_rng(zlib.crc32(seed.encode()))
    return torch.from_numpy((scale * generator.standard_normal(shape)).astype(np.float32))


def pooling(*modes: str, include_prompt: bool = True) -> Part:
    """Pooling."""

    def write(folder: Path, width: int, dtype: str, old_keys: bool) -> tuple[str, int]:
        config = {
            "embedding_dimension": width,
            "pooling_mode": list(modes) or "mean",
            "include_prompt": include_prompt,
        }
        _settings(folder, "config.json", config)
        return "Pooling", width * max(1, len(modes))

    return write


def dropout() -> Part:
    """Dropout, which does nothing outside training."""

    def write(folder: Path, width: int, dtype: str, old_keys: bool) -> tuple[str, int]:
        _settings(folder, "config.json", {"dropout": 0.5})
        return "Dropout", width

    return write


def layer_pooling(layers: int, first: int, weights: Sequence[float] | None = None) -> Part:
    """WeightedLayerPooling of states `first` to `layers`."""

    def write(folder: Path, width: int, dtype: str, old_keys: bool) -> tuple[str, int]:
        key = "word_embedding_dimension" if old_keys else "embedding_dimension"
        config = {key: width, "layer_start": first, "num_hidden_layers": layers}
        _settings(folder, "config.json", config)
        given = torch.arange(layers + 1 - first) * 0.4 - 0.3 if weights is None else torch.tensor(weights)
        _weights(folder, {"layer_weights": given.float()}, dtype)
        return "WeightedLayerPooling", width

    return write


def lstm(hidden: int, layers: int = 1, *, both: bool = True) -> Part:
    """LSTM."""

    def write(folder: Path, width: int, dtype: str, old_keys: bool) -> tuple[str, int]:
        config = {
            "word_embedding_dimension" if old_keys else "embedding_dimension": width,
            "hidden_dim": hidden,
            "num_layers": layers,
            "dropout": 0.1 if layers > 1 else 0,
            "bidirectional": both,
        }
        _settings(folder, "lstm_config.json", config)
        net = torch.nn.LSTM(width, hidden, layers, bidirectional=both)
        weights = {
            f"encoder.{name}": normal(f"lstm.{name}", tuple(parameter.shape))
            for name, parameter in net.named_parameters()
        }
        _weights(folder, weights, dtype)
        return "LSTM", hidden * (1 + both)

    return write


def cnn(out: int, kernels: Sequence[int] = (1, 3, 5), strides: Sequence[int] | None = None) -> Part:
    """CNN."""

    def write(folder: Path, width: int, dtype: str, old_keys: bool) -> tuple[str, int]:
        config = {
            "in_word_embedding_dimension" if old_keys else "in_embedding_dimension": width,
            "out_channels": out,
            "kernel_sizes": list(kernels),
            "stride_sizes": list(strides or [1] * len(kernels)),
        }
        _settings(folder, "cnn_config.json", config)
        weights = {}
        for number, size in enumerate(kernels):
            weights[f"convs.{number}.weight"] = normal(f"cnn.{number}.weight", (out, width, size))
            weights[f"convs.{number}.bias"] = normal(f"cnn.{number}.bias", (out,))
        _weights(folder, weights, dtype)
        return "CNN", out * len(kernels)

    return write


def word_weights(unknown: float = 0.5) -> Part:
    """WordWeights for the tiny BERT's words, of which some have none, and some one in lower case alone."""

    def write(folder: Path, width: int, dtype: str, old_keys: bool) -> tuple[str, int]:
        vocabulary = tiny.tokenizer("bert").get_vocab()
        words = sorted(vocabulary, key=lambda word: vocabulary[word])
        known = {word.lower(): 0.25 + (place % 7) / 3 for place, word in enumerate(words) if place % 3}
        config = {"vocab": words, "word_weights": known, "unknown_word_weight": unknown}
        _settings(folder, "config.json", config)
        weights = torch.tensor([[known.get(word, known.get(word.lower(), unknown))] for word in words])
        _weights(folder, {"emb_layer.weight": weights}, dtype)
        return "WordWeights", width

    return write


def scores(labels: int = 1) -> Part:
    """Dense that ends a CrossEncoder."""

    def write(folder: Path, width: int, dtype: str, old_keys: bool) -> tuple[str, int]:
        config = {
            "in_features": width,
            "out_features": labels,
            "bias": True,
            "activation_function": "torch.nn.modules.linear.Identity",
            "module_input_name": "sentence_embedding",
            "module_output_name": "scores",
        }
        _settings(folder, "config.json", config)
        weights = {
            "linear.weight": normal("scores.weight", (labels, width)),
            "linear.bias": normal("scores.bias", (labels,)),
        }
        _weights(folder, weights, dtype)
        return "Dense", labels

    return write


def dense(name: str, out: int = 32) -> Part:
    """Dense, of random weights by its name."""

    def write(folder: Path, width: int, dtype: str, old_keys: bool) -> tuple[str, int]:
        activation = "torch.nn.modules.activation.Tanh"
        config = {
            "in_features": width,
            "out_features": out,
            "bias": True,
            "activation_function": activation,
        }
        _settings(folder, "config.json", config)
        weights = {
            "linear.weight": normal(f"{name}.weight", (out, width)),
            "linear.bias": normal(f"{name}.bias", (out,)),
        }
        _weights(folder, weights, dtype)
        return "Dense", out

    return write


def normalize() -> Part:
    """Normalize."""

    def write(folder: Path, width: int, dtype: str, old_keys: bool) -> tuple[str, int]:
        return "Normalize", width

    return write


def router(routes: Mapping[str, Sequence[Part]], **parameters: Any) -> Part:
    """Router, or Asym with its old file; a part that stands in two routes is written once."""

    def write(folder: Path, width: int, dtype: str, old_keys: bool) -> tuple[str, int]:
        types: dict[str, str] = {}
        structure: dict[str, list[str]] = {}
        ids: dict[Part, tuple[str, int]] = {}
        out = width
        for route, parts in routes.items():
            out, structure[route] = width, []
            for place, part in enumerate(parts):
                if part not in ids:
                    made = folder / "part"
                    made.mkdir()
                    name, wide = part(made, out, dtype, old_keys)
                    ids[part] = f"{route}_{place}_{name}", wide
                    made.rename(folder / ids[part][0])
                    types[ids[part][0]] = _reference(name, old_keys)
                one, out = ids[part]
                structure[route].append(one)
        config = {"types": types, "structure": structure, "parameters": parameters}
        _settings(folder, "config.json" if old_keys else "router_config.json", config)
        return "Asym" if old_keys else "Router", out

    return write


def put_routes_first(folder: Path) -> Path:
    """The folder with everything in one router that stands first, whose routes share encoder and pooling."""
    entries = json.loads((folder / "modules.json").read_text())
    assert [entry["path"] for entry in entries[1:]] == ["1_Pooling", "2_Router"]
    config = json.loads((folder / "2_Router" / "router_config.json").read_text())
    transformer, shared = folder / "query_0_Transformer", {"query_1_Pooling": folder / "1_Pooling"}
    transformer.mkdir()
    for file in list(folder.iterdir()):
        if file.is_file() and file.name not in ("modules.json", "config_sentence_transformers.json"):
            file.rename(transformer / file.name)
    for name, place in shared.items():
        place.rename(folder / name)
    for name in config["types"]:
        (folder / "2_Router" / name).rename(folder / name)
    (folder / "2_Router" / "router_config.json").unlink()
    (folder / "2_Router").rmdir()
    config["types"] |= {transformer.name: entries[0]["type"], "query_1_Pooling": entries[1]["type"]}
    config["structure"] = {
        route: [transformer.name, *shared, *own] for route, own in config["structure"].items()
    }
    _settings(folder, "router_config.json", config)
    one = {"idx": 0, "name": "0", "path": "", "type": _reference("Router", False)}
    (folder / "modules.json").write_text(json.dumps([one]))
    return folder


def _reference(name: str, old_keys: bool) -> str:
    """The name by which modules.json calls a class."""
    if old_keys:
        return f"{OLD_CLASSES}.{name}"
    if name in ("Dense", "Normalize", "Router"):
        return f"sentence_transformers.base.modules.{_file(name)}.{name}"
    return f"{CLASSES}.{_file(name)}.{name}"


def _file(name: str) -> str:
    files = {"WeightedLayerPooling": "weighted_layer_pooling", "WordWeights": "word_weights"}
    return files.get(name, name.lower())


def _settings(folder: Path, name: str, config: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(config))


def _weights(folder: Path, tensors: dict[str, torch.Tensor], dtype: str) -> None:
    stored = {name: tensor.to(getattr(torch, dtype)).contiguous() for name, tensor in tensors.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
