"""Random folders of static embeddings, the same each time: StaticEmbedding's and model2vec's.

Needs what tests/tiny.py needs, so that it also runs where the peers are installed.
"""

from __future__ import annotations

__all__ = ["WIDTH", "table", "write_static"]

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file

import tiny

WIDTH = 24
_CLASSES = {
    "static": "sentence_transformers.sentence_transformer.modules.static_embedding.StaticEmbedding",
    "normalize": "sentence_transformers.base.modules.normalize.Normalize",
    "dense": "sentence_transformers.base.modules.dense.Dense",
}


def table(rows: int, dtype: str = "float32", width: int = WIDTH, seed: int = 0) -> torch.Tensor:
    """(rows, width) random numbers; in int8 over its whole range, as model2vec writes it."""
    values = torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32))
    if dtype != "int8":
        return values.to(getattr(torch, dtype))
    return (values / values.abs().max() * 127).round().clamp(-127, 127).to(torch.int8)


def write_static(
    folder: str | Path,
    *,
    dtype: str = "float32",
    names: Literal["sentence-transformers", "model2vec"] = "sentence-transformers",
    architecture: str = "bert",
    path: str = "0_StaticEmbedding",
    modules: Sequence[str] = ("normalize",),
    modules_json: bool = True,
    file: str = "safetensors",
    rows: int | None = None,
    weights: str | None = None,
    dense_dtype: str = "float32",
    truncation: int | None = None,
    config: Mapping[str, Any] | None = None,
    sentence_config: Mapping[str, Any] | None = None,
) -> Path:
    """The folder, now holding a whole model.

    Args:
        folder: made if need be.
        dtype: of the table: a floating-point format, or int8.
        names: of the tensors: "embedding.weight", or "embeddings" with "mapping" and "weights".
        architecture: whose tokenizer.
        path: of the StaticEmbedding, relative to the folder; "" or "." for the root.
        modules: what follows: "normalize", or "dense" to 8 dimensions.
        modules_json: whether there is one; without, config.json says that the folder is model2vec's.
        file: "safetensors", or "bin" and "legacy-bin" of torch.
        rows: of the table, to which a mapping then leads; None for one a token.
        weights: dtype of a weight for each token; None for no weights.
        dense_dtype: stored dtype of "dense".
        truncation: tokens after which tokenizer.json cuts.
        config: config.json of a model2vec folder.
        sentence_config: config_sentence_transformers.json.
    """
    folder = Path(folder)
    place = folder / path
    place.mkdir(parents=True, exist_ok=True)
    made = tiny.tokenizer(architecture)  # type: ignore[arg-type]
    tokens = made.get_vocab_size()
    if truncation is not None:
        made.enable_truncation(truncation)
    made.save(str(place / "tokenizer.json"))
    name = "embedding.weight" if names == "sentence-transformers" else "embeddings"
    tensors = {name: table(rows or tokens, dtype)}
    random = np.random.default_rng(1)
    if rows is not None:
        tensors["mapping"] = torch.from_numpy(random.integers(0, rows, tokens))
    if weights is not None:
        tensors["weights"] = torch.from_numpy(random.uniform(0.1, 2.0, tokens)).to(getattr(torch, weights))
    if file == "safetensors":
        save_file(tensors, place / "model.safetensors")
    else:
        torch.save(tensors, place / "pytorch_model.bin", _use_new_zipfile_serialization=file == "bin")
    if names == "model2vec":
        _json(folder / "config.json", {"model_type": "model2vec", **(config or {})})
    if sentence_config is not None:
        _json(folder / "config_sentence_transformers.json", sentence_config)
    if modules_json:
        entries = [{"idx": 0, "name": "0", "path": path or ".", "type": _CLASSES["static"]}]
        for number, kind in enumerate(modules, start=1):
            where = f"{number}_{kind.capitalize()}"
            entries.append({"idx": number, "name": str(number), "path": where, "type": _CLASSES[kind]})
            if kind == "dense":
                _write_dense(folder / where, dense_dtype)
        _json(folder / "modules.json", entries)
    return folder


def _write_dense(folder: Path, dtype: str) -> None:
    folder.mkdir()
    settings = {
        "in_features": WIDTH,
        "out_features": 8,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    _json(folder / "config.json", settings)
    matrix = table(8, dtype, seed=2) * 0.2
    save_file({"linear.weight": matrix, "linear.bias": matrix[:, 0].clone()}, folder / "model.safetensors")


def _json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
