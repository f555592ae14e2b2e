"""What is compared with the peers: tiny checkpoints that are the same everywhere, and what is asked of them.

Read by the recorder, where the peers are installed, and by the tests, where Tercet is; it needs neither.
"""

from __future__ import annotations

__all__ = [
    "ENCODERS",
    "M3",
    "PAIRS",
    "POOL_FACTORS",
    "STACKS",
    "TEXTS",
    "M3Case",
    "Stack",
    "fingerprint",
    "stored_vectors",
    "write",
]

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import tiny

TEXTS = (*tiny.TEXTS, "Two cats, three dogs: which of them is in the river?", "x " * 200)

# Pairs of which some share tokens, some none; short documents, so that a best match is below zero somewhere.
PAIRS = (
    ("how do I pick a random element", "random element"),
    ("read a csv file", "read a csv file, line by line: open(path)"),
    ("", "sun"),
    ("red blue green", ""),
    ("the moon", "Paris is the city of the river; London and Berlin are not in this list."),
    ("wait for several coroutines", "token"),
)


def _encoder(architecture: str, **settings: Any) -> dict[str, Any]:
    return {"architecture": architecture, **settings}


# name -> what `tiny.write_checkpoint` is given; plain Hugging Face folders
ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "bert": _encoder("bert"),
    "roberta": _encoder("roberta"),
    "xlm-roberta": _encoder("xlm-roberta"),
    "bert, gelu_new, bin, tensorflow's names": _encoder(
        "bert", hidden_act="gelu_new", file="bin", gamma_beta=True
    ),
    "bert, relu, prefix, another seed": _encoder("bert", hidden_act="relu", prefix="bert.", seed=1),
    "roberta stored in float16": _encoder("roberta", dtype="float16", prefix="roberta."),
    "xlm-roberta stored in bfloat16, three layers": _encoder("xlm-roberta", dtype="bfloat16", layers=3),
    "distilbert": _encoder("distilbert", seed=4),
    "distilbert stored in float16, relu": _encoder(
        "distilbert", dtype="float16", hidden_act="relu", prefix="distilbert.", lm_head=True
    ),
    "distilbert stored in bfloat16, bin": _encoder(
        "distilbert", dtype="bfloat16", file="bin", hidden=16, heads=2
    ),
    "electra": _encoder("electra", seed=5, hidden=16, heads=2),
    "electra with narrow embeddings": _encoder(
        "electra", embedding=12, seed=6, prefix="electra.", lm_head=True
    ),
    "electra stored in float16, wide embeddings": _encoder(
        "electra", embedding=48, dtype="float16", hidden=16, heads=1
    ),
    "mpnet": _encoder("mpnet", seed=7, max_positions=210, hidden=16),
    "mpnet stored in float16, silu": _encoder(
        "mpnet", dtype="float16", hidden=16, heads=2, hidden_act="silu", prefix="mpnet.", lm_head=True
    ),
    "mpnet stored in bfloat16, three layers, bin": _encoder(
        "mpnet", dtype="bfloat16", hidden=16, heads=1, layers=3, file="bin"
    ),
    "electra stored in bfloat16": _encoder(
        "electra", embedding=8, dtype="bfloat16", layers=3, hidden=16, heads=2
    ),
}


@dataclass(frozen=True)
class Stack:
    """A sentence-transformers folder and the options of its `encode`, by that library's names."""

    name: str
    modules: tuple[Any, ...]
    write: Mapping[str, Any] = field(default_factory=dict)
    encode: Mapping[str, Any] = field(default_factory=dict)
    architecture: str = "bert"


_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_PROMPTS = {"query": "search query: ", "document": "the text: "}


def _dense(activation: str, **settings: Any) -> tuple[str, dict[str, Any]]:
    return ("dense", {"activation_function": f"torch.nn.modules.{activation}", **settings})


def _pooling(*modes: str, **settings: Any) -> tuple[str, dict[str, Any]]:
    return ("pooling", {"modes": modes, **settings})


STACKS = (
    *(Stack(f"pooling {mode}", (_pooling(mode),)) for mode in _MODES),
    *(Stack(f"pooling {mode}, old keys", (_pooling(mode),), {"old_keys": True}) for mode in _MODES),
    Stack("pooling of three kinds", (_pooling("cls", "max", "mean"),)),
    Stack("pooling of all kinds, old keys", (_pooling(*_MODES), "normalize"), {"old_keys": True}),
    Stack("roberta", ("pooling", "normalize"), architecture="roberta"),
    Stack("xlm-roberta", (_pooling("cls"), "normalize"), architecture="xlm-roberta"),
    Stack("mpnet", ("pooling", "normalize"), {"max_positions": 150}, architecture="mpnet"),
    Stack("mpnet stored in bfloat16", (_pooling("cls"),), {"dtype": "bfloat16"}, architecture="mpnet"),
    Stack(
        "distilbert", ("pooling", _dense("activation.Tanh")), {"old_keys": True}, architecture="distilbert"
    ),
    Stack("distilbert stored in float16", ("pooling",), {"dtype": "float16"}, architecture="distilbert"),
    Stack("electra", (_pooling("max"),), {"embedding": 12}, architecture="electra"),
    Stack("stored in float16", ("pooling", _dense("activation.Tanh"), "normalize"), {"dtype": "float16"}),
    *(
        Stack(f"dense {activation}", ("pooling", _dense(activation)))
        for activation in ("activation.Tanh", "linear.Identity", "activation.GELU", "activation.ReLU")
    ),
    Stack("dense Sigmoid, wider", ("pooling", _dense("activation.Sigmoid", out_features=48))),
    Stack(
        "dense SiLU, narrower, no bias", ("pooling", _dense("activation.SiLU", out_features=16, bias=False))
    ),
    Stack("dense residual", ("pooling", _dense("linear.Identity", use_residual=True), "normalize")),
    Stack(
        "dense residual, narrower", ("pooling", _dense("activation.Tanh", use_residual=True, out_features=8))
    ),
    Stack("dense twice, in float16 files", ("pooling", *[_dense("activation.Tanh", dtype="float16")] * 2)),
    Stack(
        "dense in a .bin file, old keys",
        ("pooling", _dense("activation.Tanh", file="bin")),
        {"old_keys": True},
    ),
    Stack("layer norm", ("pooling", "layer_norm")),
    Stack("layer norm, dense, normalize", ("pooling", "layer_norm", _dense("linear.Identity"), "normalize")),
    Stack("normalize before dense", ("pooling", "normalize", _dense("activation.Tanh"))),
    Stack("short texts", ("pooling",), {"max_seq_length": 12, "old_keys": True}),
    Stack("short texts by the tokenizer", ("pooling",), {"model_max_length": 10}),
    Stack("tokenizer that cuts and pads by itself", ("pooling",), {"truncation_trap": 9}),
    Stack("lower case", ("pooling",), {"do_lower_case": True, "old_keys": True}, architecture="roberta"),
    Stack("prompt", ("pooling", "normalize"), encode={"prompt": "search query: "}),
    Stack("prompt by name", ("pooling",), {"prompts": _PROMPTS}, {"prompt_name": "query"}),
    Stack("prompt by default", ("pooling",), {"prompts": _PROMPTS, "default_prompt_name": "document"}),
    *(
        Stack(
            f"prompt not pooled, {mode}",
            (_pooling(mode, include_prompt=False),),
            encode={"prompt": "search query: "},
        )
        for mode in _MODES
    ),
    Stack(
        "prompt not pooled, xlm-roberta",
        (_pooling("mean", include_prompt=False),),
        encode={"prompt": "search query: "},
        architecture="xlm-roberta",
    ),
    Stack("fewer dimensions", ("pooling",), encode={"truncate_dim": 8, "normalize_embeddings": True}),
    Stack("fewer dimensions, saved", ("pooling",), {"truncate_dim": 8}, {"normalize_embeddings": True}),
    Stack("normalised on demand", ("pooling",), encode={"normalize_embeddings": True}),
)


@dataclass(frozen=True)
class M3Case:
    """A BGE-M3 folder and FlagEmbedding's options for it."""

    write: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    max_length: int = 60


# name -> folder and options
M3: Mapping[str, M3Case] = {
    "m3": M3Case({"file": "bin"}),
    "m3 with narrow multi-vectors": M3Case({"colbert_dim": 8}, {"colbert_dim": 8}),
    "m3 of short texts": M3Case({"seed": 2, "heads_dtype": "float32"}, max_length=9),
    "m3 without the dense part's files": M3Case({"modules_json": False, "seed": 3}),
    "m3 with matches below zero": M3Case({"seed": 27, "colbert_dim": 4}, {"colbert_dim": 4}),
    "m3 in fewer dimensions": M3Case(options={"truncate_dim": 8}),
    "m3 not normalised": M3Case(options={"normalize_embeddings": False}),
}


# How many token vectors become one, where stored vectors are compared.
POOL_FACTORS = (1.5, 2.0, 3.0)


def stored_vectors() -> np.ndarray:
    """(40, 21) unit rows to be stored: float32, no whole number of bytes wide, with zeros among them."""
    vectors = np.random.default_rng(7).standard_normal((40, 21)).astype(np.float32)
    vectors[:3, ::4] = (0.0, -0.0, 0.0, 0.0, -0.0, 0.0)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write(folder: Path, name: str) -> Path:
    """The tiny checkpoint of a case, by its name."""
    if name in ENCODERS:
        return tiny.write_checkpoint(folder, **ENCODERS[name])
    if name in M3:
        return tiny.write_checkpoint(folder, "xlm-roberta", layout="bge-m3", **M3[name].write)
    stack = next(case for case in STACKS if case.name == name)
    return tiny.write_checkpoint(
        folder, stack.architecture, layout="sentence-transformers", modules=stack.modules, **stack.write
    )


def fingerprint() -> str:
    """A hash of what tiny checkpoints are made of: equal here and there, or outputs cannot be compared."""
    digest = hashlib.sha256()
    for architecture in ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "mpnet"):
        made = tiny.tokenizer(architecture)
        vocabulary = made.get_vocab()
        digest.update(repr(sorted(vocabulary.items(), key=lambda entry: entry[1])).encode())
        for name, tensor in tiny.state_dict(architecture, len(vocabulary)).items():
            digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
