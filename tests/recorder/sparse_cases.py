"""SparseEncoder folders that are compared with sentence-transformers, and what is asked of them."""

from __future__ import annotations

__all__ = ["CASES", "SparseCase", "write"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny_sparse


@dataclass(frozen=True)
class SparseCase:
    """What `make` writes, and the options of `SparseEncoder.encode`, by that library's names."""

    make: Callable[..., Path]
    write: Mapping[str, Any] = field(default_factory=dict)
    encode: Mapping[str, Any] = field(default_factory=dict)


def _splade(encode: Mapping[str, Any] | None = None, **settings: Any) -> SparseCase:
    return SparseCase(tiny_sparse.write_splade, settings, encode or {})


def _csr(encode: Mapping[str, Any] | None = None, **settings: Any) -> SparseCase:
    return SparseCase(tiny_sparse.write_csr, settings, encode or {})


# name -> folder and options
CASES: Mapping[str, SparseCase] = {
    "splade of bert": _splade(),
    "splade of bert, sum": _splade(strategy="sum", seed=1),
    "splade of bert, log1p_relu": _splade(activation="log1p_relu", seed=2),
    "splade of bert, sum, log1p_relu": _splade(strategy="sum", activation="log1p_relu"),
    "splade of bert, MLMTransformer": _splade(old_keys=True),
    "splade of bert, a decoder of its own": _splade(untied=True, seed=3),
    "splade of bert, relu in the head": _splade(hidden_act="relu"),
    "splade of bert, stored in float16": _splade(dtype="float16"),
    "splade of bert, stored in bfloat16": _splade(dtype="bfloat16"),
    "splade of bert, the largest five": _splade({"max_active_dims": 5}),
    "splade of bert, the largest seven, saved": _splade(max_active_dims=7),
    "splade of roberta": _splade(architecture="roberta"),
    "splade of xlm-roberta": _splade(architecture="xlm-roberta", untied=True),
    "splade of distilbert": _splade(architecture="distilbert"),
    "splade of distilbert, gelu_new": _splade(architecture="distilbert", hidden_act="gelu_new", seed=1),
    "splade of mpnet": _splade(architecture="mpnet"),
    "splade of electra": _splade(architecture="electra"),
    "splade of electra, narrow embeddings": _splade(architecture="electra", embedding=12, seed=2),
    "splade of a plain folder": _splade(plain=True, seed=4),
    "splade, the route of queries": SparseCase(tiny_sparse.write_routes, {}, {"task": "query"}),
    "splade, the route of documents": SparseCase(tiny_sparse.write_routes, {}, {"task": "document"}),
    "splade, the route by default": SparseCase(tiny_sparse.write_routes, {"seed": 2}),
    "csr": _csr(),
    "csr, normalised first": _csr(normalize=True, seed=1),
    "csr, stored in float16": _csr(dtype="float16"),
    "csr, stored in bfloat16": _csr(dtype="bfloat16", normalize=True),
    "csr, the largest three": _csr({"max_active_dims": 3}),
    "csr, more than its own": _csr({"max_active_dims": 20}),
    "csr, the largest five, saved": _csr(max_active_dims=5),
    "csr, fewer above zero than asked for": _csr({"max_active_dims": 48}),
}


def write(folder: Path, name: str) -> Path:
    """The tiny checkpoint of a case, by its name."""
    case = CASES[name]
    return case.make(folder, **case.write)
