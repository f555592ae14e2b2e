"""Calls of sentence-transformers' SentenceTransformer that another class of that name must answer alike.

The recorder makes them with that library's class, the tests with Tercet's: all that differs is one import.
"""

from __future__ import annotations

__all__ = ["FOLDERS", "METHODS", "answers", "real_answers", "signature", "write"]

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import tiny

TEXTS = [*tiny.TEXTS[:6], "", "Two cats, three dogs: which of them is in the river?", "x " * 200]
_PROMPTS = {"query": "the query: ", "passage": "the passage: "}
_STACK = ("pooling", ("dense", {"out_features": 24}), "normalize")

# name -> what `tiny.write_checkpoint` is given
FOLDERS: Mapping[str, Mapping[str, Any]] = {
    "bert": {"modules": _STACK, "prompts": _PROMPTS},
    "bert, old keys, not pooling prompts": {
        "modules": (("pooling", {"modes": ("cls", "mean"), "include_prompt": False}),),
        "prompts": {"query": "search: ", "document": "text: "},
        "default_prompt_name": "query",
        "old_keys": True,
    },
    "xlm-roberta, saved width": {"architecture": "xlm-roberta", "modules": _STACK, "truncate_dim": 10},
    "roberta stored in float16": {"architecture": "roberta", "modules": _STACK, "dtype": "float16"},
}

# name -> the arguments of one call
_CALLS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "prompt": {"prompt": "say: "},
    "prompt by name": {"prompt_name": "query"},
    "empty prompt": {"prompt": ""},
    "prompt over its name": {"prompt": "say: ", "prompt_name": "query"},
    "normalised": {"normalize_embeddings": True},
    "cut": {"truncate_dim": 7},
    "cut, normalised": {"truncate_dim": 7, "normalize_embeddings": True},
    "cut beyond the width": {"truncate_dim": 4000},
    "binary": {"precision": "binary"},
    "ubinary, cut": {"precision": "ubinary", "truncate_dim": 9},
    "batches of one": {"batch_size": 1},
    "short": {"processing_kwargs": {"text": {"max_length": 6, "truncation": True}}},
    "task": {"task": "query"},
}
# Those that depend on what a text is.
_BY_ROLE = ("plain", "prompt", "prompt by name", "empty prompt")

# class -> its methods of which signatures are compared
METHODS: Mapping[str, tuple[str, ...]] = {
    "SentenceTransformer": (
        "__init__",
        "encode",
        "encode_query",
        "encode_document",
        "similarity",
        "similarity_pairwise",
    ),
    "CrossEncoder": ("__init__", "predict", "rank"),
}


def signature(model_class: Any, name: str) -> np.ndarray:
    """What a method takes, in order, as "name=default"; what has no default is the name alone."""
    parameters = list(inspect.signature(getattr(model_class, name)).parameters.values())[1:]
    return np.array(
        [
            one.name if one.default is one.empty else f"{one.name}={one.default!r}"
            for one in parameters
            if one.kind is not one.VAR_KEYWORD
        ]
    )


def write(folder: Path, name: str) -> Path:
    """The tiny checkpoint of that name."""
    settings = {"architecture": "bert", **FOLDERS[name]}
    return tiny.write_checkpoint(folder, layout="sentence-transformers", **settings)


def answers(model_class: Any, folder: Path) -> dict[str, np.ndarray]:
    """What a model of the class answers to all calls, one array each."""
    model = model_class(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
    found: dict[str, Any] = {}
    for name, options in _CALLS.items():
        for method in ("encode", "encode_query", "encode_document"):
            if method == "encode" or name in _BY_ROLE:
                found[f"{method}/{name}"] = getattr(model, method)(TEXTS, **options)
    found["one text"] = model.encode(TEXTS[1])
    found["a tensor"] = model.encode(TEXTS, convert_to_tensor=True).numpy()
    found["a list"] = np.stack([row.numpy() for row in model.encode(TEXTS, convert_to_numpy=False)])
    found["no texts"] = np.array(model.encode([]).shape)
    tokens = model.encode(TEXTS, output_value="token_embeddings")
    found["tokens"] = np.concatenate([rows[:, :6].numpy() for rows in tokens])
    found["tokens of one"] = model.encode(TEXTS[1], prompt="say: ", output_value="token_embeddings").numpy()
    every = [text for text in model.encode(TEXTS, output_value=None)]
    found["ids"] = np.concatenate([text["input_ids"][text["attention_mask"] > 0].numpy() for text in every])
    found["vectors among all"] = np.stack([text["sentence_embedding"].numpy() for text in every])
    found["width"] = np.array(model.get_embedding_dimension())
    found["length"] = np.array(model.max_seq_length)
    found["prompts"] = np.array(sorted(model.prompts.items()))
    with model.truncate_embeddings(5):
        found["in a context of five"] = model.encode(TEXTS)
    model.max_seq_length = 9
    found["nine tokens"] = model.encode(TEXTS)
    first, second = found["encode/plain"][:4], found["encode/prompt"]
    for name in ("cosine", "dot", "euclidean", "manhattan"):
        model.similarity_fn_name = name
        found[f"{name}/all"] = model.similarity(first, second).numpy()
        found[f"{name}/one"] = model.similarity(first[0], second).numpy()
        found[f"{name}/pairs"] = model.similarity_pairwise(first, second[:4]).numpy()
        found[f"{name}/pair"] = model.similarity_pairwise(first[0], second[1]).numpy()
    return {name: np.asarray(value) for name, value in found.items()}


def real_answers(model_class: Any, folder: str, texts: list[str]) -> dict[str, np.ndarray]:
    """The same of a real model, as far as it is small: similarities, and the beginnings of vectors."""
    model = model_class(folder, device="cpu", model_kwargs={"dtype": "float32"})
    vectors = model.encode(texts)
    tokens = model.encode(texts[:8], output_value="token_embeddings")
    return {
        "beginnings": vectors[:, :8],
        "similarities": model.similarity(vectors[:10], vectors).numpy(),
        "bits": model.encode(texts[:20], precision="ubinary"),
        "tokens": np.concatenate([rows[:, :4].numpy() for rows in tokens]),
        "width": np.array(model.get_embedding_dimension()),
        "length": np.array(model.max_seq_length),
    }
