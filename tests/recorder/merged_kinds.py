"""Every kind of folder that is merged, and its merges by hand; read by the recorder and by the tests."""

from __future__ import annotations

__all__ = ["FLAG_PAIRS", "KINDS", "TEXTS", "Kind", "by_hand", "digests", "recipe", "sketches", "write"]

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

import tiny
import tiny_foreign
import tiny_reranker
import tiny_sparse
from recorder import cases

TEXTS = cases.TEXTS
FLAG_PAIRS = tuple(pair for pair in cases.PAIRS if all(pair))
_SLERP_T = 0.35
_TIES_WEIGHTS, _TIES_DENSITY = (0.7, 0.5), 0.5


@dataclass(frozen=True)
class Kind:
    """One kind of model.

    Attributes:
        peers: which of their classes open it.
        second: how it is merged beside linear.
        write: folder and seed -> the folder, now holding a tiny one.
        here: whether Tercet runs it.
    """

    peers: tuple[str, ...]
    second: Literal["slerp", "ties"]
    write: Callable[[Path, int], Path]
    here: bool = True


def _stack(architecture: tiny.Architecture, *modules: tiny.Module) -> Callable[[Path, int], Path]:
    return lambda folder, seed: tiny.write_checkpoint(
        folder,
        architecture,
        layout="sentence-transformers",
        modules=modules,
        prompts={"query": "search query: "},
        default_prompt_name="query",
        seed=seed,
    )


def _m3(folder: Path, seed: int) -> Path:
    # a .pt of each head; in float32, so that by hand nothing is rounded that would not be read again
    return tiny.write_checkpoint(
        folder, "xlm-roberta", layout="bge-m3", colbert_dim=16, heads_dtype="float32", seed=seed
    )


_CLS, _MEAN = ("pooling", {"modes": ("cls",)}), ("pooling", {"modes": ("mean",)})
_LAST = ("pooling", {"modes": ("lasttoken",)})
_DENSE = ("dense", {"out_features": 16})

KINDS: Mapping[str, Kind] = {
    "bert": Kind(("SentenceTransformer",), "slerp", _stack("bert", _MEAN, _DENSE, "layer_norm", "normalize")),
    "roberta": Kind(("SentenceTransformer",), "ties", _stack("roberta", _MEAN, _DENSE)),
    "xlm-roberta": Kind(("SentenceTransformer",), "slerp", _stack("xlm-roberta", _CLS, _DENSE, "normalize")),
    "bge-m3": Kind(("SentenceTransformer", "BGEM3FlagModel"), "ties", _m3),
    "reranker": Kind(
        ("CrossEncoder", "FlagReranker"),
        "ties",
        lambda folder, seed: tiny_reranker.write_reranker(folder, seed=seed),
    ),
    "splade": Kind(
        ("SparseEncoder",), "slerp", lambda folder, seed: tiny_sparse.write_splade(folder, seed=seed)
    ),
    "modernbert": Kind(
        ("SentenceTransformer",),
        "slerp",
        lambda folder, seed: tiny_foreign.write_foreign(
            folder, "modernbert", modules=(_MEAN, _DENSE, "normalize"), seed=seed
        ),
        here=False,
    ),
    "qwen3": Kind(
        ("SentenceTransformer",),
        "ties",
        lambda folder, seed: tiny_foreign.write_foreign(
            folder, "qwen3", modules=(_LAST, "normalize"), seed=seed
        ),
        here=False,
    ),
}


def write(folder: Path, name: str, method: str) -> list[Path]:
    """The models that are merged: two, and for ties the base before them."""
    count = 3 if method == "ties" else 2
    return [KINDS[name].write(folder / f"model{seed}", seed) for seed in range(count)]


def recipe(method: str, folders: Sequence[Path]) -> str:
    """What Tercet is told."""
    if method == "linear":
        models = "".join(f"  - {{model: {one}, parameters: {{weight: 0.5}}}}\n" for one in folders)
        return f"merge_method: linear\nmodels:\n{models}"
    if method == "slerp":
        base, other = folders
        return (
            f"merge_method: slerp\nbase_model: {base}\nmodels: [{{model: {other}}}]\n"
            f"parameters: {{t: {_SLERP_T}}}\n"
        )
    base, *others = folders
    models = "".join(
        f"  - {{model: {one}, parameters: {{weight: {weight}, density: {_TIES_DENSITY}}}}}\n"
        for one, weight in zip(others, _TIES_WEIGHTS, strict=True)
    )
    return f"merge_method: ties\nbase_model: {base}\nmodels:\n{models}"


def by_hand(method: str, tensors: Sequence[np.ndarray]) -> np.ndarray:
    """The same for one tensor, from the definitions (Shoemake 1985; Yadav et al. 2023), in float64."""
    wide = [one.astype(np.float64) for one in tensors]
    if method == "linear":
        return (wide[0] + wide[1]) / 2
    if method == "slerp":
        base, other = wide
        cosine = float(np.sum(base * other) / (np.linalg.norm(base) * np.linalg.norm(other)))
        if abs(cosine) > 0.9995:  # nearly on one line: between them, as mergekit has it
            return (1 - _SLERP_T) * base + _SLERP_T * other
        angle = np.arccos(cosine)
        shares = np.sin((1 - _SLERP_T) * angle), np.sin(_SLERP_T * angle)
        return (shares[0] * base + shares[1] * other) / np.sin(angle)
    base = wide[0]
    changes = [_largest(one - base) for one in wide[1:]]
    weighted = [weight * change for weight, change in zip(_TIES_WEIGHTS, changes, strict=True)]
    elected = np.where(sum(weighted) >= 0, 1.0, -1.0)
    agree = [np.sign(one) == elected for one in weighted]
    total = sum(weight * one for weight, one in zip(_TIES_WEIGHTS, agree, strict=True))
    kept = sum(one * there for one, there in zip(weighted, agree, strict=True))
    return base + kept / np.where(total > 0, total, 1)


def _largest(change: np.ndarray) -> np.ndarray:
    flat = change.reshape(-1)
    count = max(1, int(_TIES_DENSITY * flat.size))
    made = np.zeros_like(flat)
    chosen = np.argsort(-np.abs(flat), kind="stable")[:count]
    made[chosen] = flat[chosen]
    return made.reshape(change.shape)


def digests(tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """A line for each float32 tensor, by name: what it is called, and a hash of its bytes."""
    return np.array(
        [
            f"{name} {one.dtype} {one.shape} {hashlib.sha256(one.tobytes()).hexdigest()}"
            for name, one in sorted(tensors.items())
        ]
    )


def sketches(tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """(tensors, 9) by name: the length of each, and its products with eight random directions."""
    rows = []
    for _, one in sorted(tensors.items()):
        flat = one.astype(np.float64).reshape(-1)
        directions = np.random.default_rng(flat.size).standard_normal((8, flat.size))
        rows.append([np.linalg.norm(flat), *(directions @ flat / np.sqrt(flat.size))])
    return np.array(rows)
