"""Tiny folders of SparseStaticEmbedding, and of routers whose routes have encoders of their own.

Needs what `tiny` needs, so that it also runs where the peers are installed.
"""

from __future__ import annotations

__all__ = ["join", "write_token_weights"]

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import tiny
import tiny_modules

_SPARSE_STATIC = "sentence_transformers.sparse_encoder.modules.sparse_static_embedding.SparseStaticEmbedding"
_ROUTER = "sentence_transformers.base.modules.router.Router"
# What belongs to a whole model, whichever routes it has.
_TOP = ("modules.json", "config_sentence_transformers.json")


def write_token_weights(
    folder: str | Path,
    architecture: str = "bert",
    *,
    listed: bool = False,
    dtype: str = "float32",
    path: str = "",
    max_tokens: int | None = None,
    seed: str = "idf",
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A SparseEncoder folder that is one SparseStaticEmbedding.

    Args:
        folder: made if need be.
        architecture: whose tokenizer.
        listed: the weights in idf.json by token, every fifth left out, instead of in safetensors.
        dtype: stored dtype of the weights; of a third of the tokens they are below zero, of a few zero.
        path: the module's, relative to the folder.
        max_tokens: of tokenizer_config.json.
        seed: of the weights.
        config: changes to the module's config.json.
    """
    folder = Path(folder)
    place = folder / path
    place.mkdir(parents=True, exist_ok=True)
    made = tiny.tokenizer(architecture)  # type: ignore[arg-type]
    made.save(str(place / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    settings |= {"pad_token": "[PAD]", "sep_token": "[SEP]"}
    if max_tokens is not None:
        settings["model_max_length"] = max_tokens
    _json(place / "tokenizer_config.json", settings)
    weights = tiny_modules.normal(seed, (made.get_vocab_size(),), 2.0) + 1
    weights[::7] = 0
    own: dict[str, Any] = {"frozen": True, **(config or {})}
    if listed:
        tokens = sorted(made.get_vocab().items(), key=lambda pair: pair[1])
        idf = {token: float(weights[number]) for token, number in tokens if number % 5}
        _json(place / "idf.json", idf)
        own["path"] = "idf.json"
    else:
        save_file({"weight": weights.to(getattr(torch, dtype))}, place / "model.safetensors")
    _json(place / "config.json", own)
    _json(folder / "modules.json", [{"idx": 0, "name": "0", "path": path, "type": _SPARSE_STATIC}])
    _json(folder / "config_sentence_transformers.json", {"model_type": "SparseEncoder"})
    return folder


def join(
    folder: str | Path,
    models: Mapping[str, Callable[[Path], Path]],
    *,
    at_root: str | None = None,
    shared: int = 0,
    top: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> Path:
    """A folder whose router has a route for each of the models.

    Args:
        folder: made if need be.
        models: route -> what writes a whole model's folder.
        at_root: the route whose encoder lies at the root, under the name "".
        shared: so many modules, from the first on, are the first route's in every route.
        top: changes to config_sentence_transformers.json.
        parameters: the router's.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    types: dict[str, str] = {}
    structure: dict[str, list[str]] = {}
    settings: dict[str, Any] = {}
    for route, write in models.items():
        whole = write(folder / f".{route}")
        entries = json.loads((whole / "modules.json").read_text(encoding="utf-8"))
        saved = whole / "config_sentence_transformers.json"
        settings |= json.loads(saved.read_text(encoding="utf-8")) if saved.is_file() else {}
        structure[route] = []
        folders = [entry["path"] for entry in entries if entry["path"] not in ("", ".")]
        for place, entry in enumerate(entries):
            name = f"{route}_{place}_{entry['type'].rsplit('.', 1)[-1]}"
            source = whole / entry["path"]
            files = [
                file
                for file in (source.iterdir() if source.is_dir() else ())
                if not (source == whole and (file.name in _TOP or file.name in folders))
            ]
            name = "" if place == 0 and route == at_root else name
            (folder / name).mkdir(exist_ok=True)
            for file in files:
                file.rename(folder / name / file.name)
            types[name] = entry["type"]
            structure[route].append(name)
        for name in _TOP:
            (whole / name).unlink(missing_ok=True)
        for name in folders:
            if (whole / name).is_dir():
                (whole / name).rmdir()
        whole.rmdir()
    first = next(iter(structure.values()))
    for route, names in structure.items():
        for name in names[:shared] if names is not first else ():
            shutil.rmtree(folder / name)
            del types[name]
        structure[route] = [*first[:shared], *names[shared:]]
    config = {"types": types, "structure": structure, "parameters": parameters}
    _json(folder / "router_config.json", config)
    _json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": _ROUTER}])
    _json(folder / "config_sentence_transformers.json", {**settings, **(top or {})})
    return folder


def _json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
