"""Calls of sentence-transformers' SparseEncoder that another class of that name must answer alike.

The recorder makes them with that library's class, the tests with Tercet's: all that differs is one import.
"""

from __future__ import annotations

__all__ = ["FOLDERS", "METHODS", "answers", "write"]

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import tiny
import tiny_sparse

TEXTS = [*tiny.TEXTS[:5], "", "Two cats, three dogs: which of them is in the river?", "x " * 200]
_SAVED = {"prompts": {"query": "the query: ", "passage": "the passage: "}}

# name -> what writes it, its arguments, and what is written into config_sentence_transformers.json besides
FOLDERS: Mapping[str, tuple[Callable[..., Path], Mapping[str, Any], Mapping[str, Any]]] = {
    "splade": (tiny_sparse.write_splade, {}, _SAVED),
    "splade, saved width and measure": (
        tiny_sparse.write_splade,
        {"max_active_dims": 9, "architecture": "distilbert", "strategy": "sum"},
        {"similarity_fn_name": "cosine", "prompts": {"query": "find: "}, "default_prompt_name": "query"},
    ),
    "plain": (tiny_sparse.write_splade, {"plain": True, "architecture": "roberta"}, {}),
    "csr": (tiny_sparse.write_csr, {"normalize": True}, _SAVED),
}

# name -> the arguments of one call
_CALLS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "prompt": {"prompt": "say: "},
    "prompt by name": {"prompt_name": "query"},
    "largest four": {"max_active_dims": 4},
    "batches of one": {"batch_size": 1, "save_to_cpu": True},
    "short": {"processing_kwargs": {"text": {"max_length": 6, "truncation": True}}},
    "task": {"task": "query"},
}

METHODS = (
    "__init__",
    "encode",
    "encode_query",
    "encode_document",
    "similarity",
    "similarity_pairwise",
    "sparsity",
    "intersection",
    "decode",
)


def write(folder: Path, name: str) -> Path:
    """The tiny checkpoint of a case, by its name."""
    make, settings, saved = FOLDERS[name]
    make(folder, **settings)
    path = folder / "config_sentence_transformers.json"
    if saved:
        path.write_text(json.dumps({**json.loads(path.read_text()), **saved}))
    return folder


def answers(encoder: Any, folder: Path) -> dict[str, np.ndarray]:
    """Every answer of a class to the calls, as arrays."""
    model = encoder(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
    found: dict[str, np.ndarray] = {}
    for name, call in _CALLS.items():
        if name == "prompt by name" and "query" not in model.prompts:
            continue
        found[f"encode, {name}"] = model.encode(TEXTS, convert_to_sparse_tensor=False, **call).numpy()
    for method in ("encode_query", "encode_document"):
        found[method] = getattr(model, method)(TEXTS, convert_to_sparse_tensor=False).numpy()
    sparse = model.encode(TEXTS)
    found["sparse"] = sparse.to_dense().numpy()
    rows = model.encode(TEXTS, convert_to_tensor=False)
    found["a list"] = np.stack([row.to_dense().numpy() for row in rows])
    rows = model.encode(TEXTS, convert_to_tensor=False, convert_to_sparse_tensor=False)
    found["a list, written out"] = np.stack([row.numpy() for row in rows])
    alone = model.encode(TEXTS[1])
    found["one text"] = alone.to_dense().numpy()
    found["one text, written out"] = model.encode({"text": TEXTS[1]}, convert_to_sparse_tensor=False).numpy()
    layouts = [str(one.layout) for one in (sparse, alone, model.encode([]), rows[0])]
    found["layouts"] = np.array(layouts)
    found["no texts"] = model.encode([]).to_dense().numpy()
    found["no texts, written out"] = model.encode([], convert_to_sparse_tensor=False).numpy()
    found["no texts, a list"] = np.array(len(model.encode([], convert_to_tensor=False)))
    found["settings"] = np.array(
        [
            repr(model.max_active_dims),
            repr(model.similarity_fn_name),
            repr(model.default_prompt_name),
            repr(sorted(model.prompts.items())),
            repr(model.max_seq_length),
            repr(model.get_embedding_dimension()),
        ]
    )
    found["usual similarity"] = model.similarity(sparse, sparse).numpy()
    for measure in ("dot", "cosine", "euclidean", "manhattan"):
        model.similarity_fn_name = measure
        # Of different texts: of equal ones, a distance is nothing but rounding.
        found[measure] = model.similarity(model.encode(TEXTS[:3]), model.encode(TEXTS[3:5])).numpy()
        found[f"{measure}, pairs"] = model.similarity_pairwise(
            model.encode(TEXTS[:4]), model.encode(TEXTS[1:5])
        ).numpy()
    sparsity = [model.sparsity(one) for one in (sparse, alone, rows[2])]
    found["sparsity"] = np.array([[one["active_dims"], one["sparsity_ratio"]] for one in sparsity])
    found["intersection"] = model.intersection(alone, sparse).to_dense().numpy()
    found["intersection of two"] = model.intersection(alone, rows[2]).to_dense().numpy()
    if not (folder / "2_SparseAutoEncoder").exists():  # whose dimensions are no words
        decoded = [model.decode(alone, top_k=6), *model.decode(sparse, top_k=3)[:5]]
        found["decoded"] = np.array([piece for text in decoded for piece, _ in text])
        found["decoded weights"] = np.array([weight for text in decoded for _, weight in text])
        found["decoded at length"] = np.array([len(text) for text in model.decode(sparse)])
    return found
