"""Rerankers that are compared with the peers, and what the peers are asked of them.

Read by the recorder, where the peers are installed, and by the tests, where Tercet is; it needs neither.
"""

from __future__ import annotations

__all__ = ["CROSS_ENCODERS", "FILLED", "FLAG", "LENGTHS", "PAIRS", "RANKED", "CrossCase", "write"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny_reranker

# Of mixed lengths; in tiny models of 64 positions some are cut on the left, on the right, and on both.
PAIRS = (
    ("which city", "Paris is the city of the river; London and Berlin are not in this list."),
    ("which city", ""),
    ("", "the cat is on the bridge"),
    ("", ""),
    ("how do I pick a random element", "random element"),
    ("read a csv file", "read a csv file, line by line: open(path) " * 9),
    ("wait for several coroutines " * 20, "token"),
    ("the moon and the stars " * 20, "water, fire and earth " * 25),
    ("one two three", "naive cafe and 42 stars"),
)
RANKED = ("the river", ("the bridge", "Paris is the city of the river", "music and dance", "a river", ""))
# FlagEmbedding on transformers 5 joins an empty text to none at all.
FILLED = tuple(pair for pair in PAIRS if all(pair))
# Of pairs; odd and even, so that halves and odd tokens are seen.
LENGTHS = (None, 24, 25)


@dataclass(frozen=True)
class CrossCase:
    """A CrossEncoder folder and what its `predict` is asked, by that library's names."""

    architecture: str = "bert"
    write: Mapping[str, Any] = field(default_factory=dict)
    predict: Mapping[str, Any] = field(default_factory=dict)


_SIGMOID, _IDENTITY = "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"

# name -> folder and options
CROSS_ENCODERS: Mapping[str, CrossCase] = {
    "bert": CrossCase(),
    "bert, identity by the new key": CrossCase(write={"activation": _IDENTITY}),
    "bert, sigmoid by the old key": CrossCase(write={"activation": _SIGMOID, "keys": "old"}),
    "bert, tanh in a folder of version 6": CrossCase(
        write={"activation": "torch.nn.modules.activation.Tanh", "keys": "top", "cross_encoder": True}
    ),
    "bert, three labels": CrossCase(write={"labels": 3}),
    "bert, three labels, softmax": CrossCase(write={"labels": 3}, predict={"apply_softmax": True}),
    "bert, prompt by default": CrossCase(
        write={"prompts": {"query": "search query: "}, "default_prompt_name": "query"}
    ),
    "bert, prompt": CrossCase(write={"activation": _IDENTITY}, predict={"prompt": "the text: "}),
    "bert stored in float16": CrossCase(write={"dtype": "float16"}),
    "bert of short texts by the tokenizer": CrossCase(write={"model_max_length": 15}),
    "bert without token types": CrossCase(write={"types": False}),
    "roberta, two labels": CrossCase("roberta", {"labels": 2}),
    "roberta, identity": CrossCase("roberta", {"activation": _IDENTITY}),
    "distilbert, identity": CrossCase("distilbert", {"activation": _IDENTITY}),
    "electra": CrossCase("electra"),
    "electra with projected embeddings": CrossCase("electra", {"embedding": 16, "activation": _IDENTITY}),
    "mpnet": CrossCase("mpnet"),
    "mpnet, three labels, identity": CrossCase("mpnet", {"labels": 3, "activation": _IDENTITY}),
    "xlm-roberta": CrossCase("xlm-roberta"),
    "xlm-roberta stored in float16": CrossCase("xlm-roberta", {"dtype": "float16"}),
    "xlm-roberta stored in bfloat16": CrossCase("xlm-roberta", {"dtype": "bfloat16"}),
    "xlm-roberta, head in bfloat16": CrossCase(
        "xlm-roberta", {"head_dtype": "bfloat16", "activation": _IDENTITY}
    ),
}
# name -> folder, of FlagReranker
FLAG: Mapping[str, Mapping[str, Any]] = {
    "bge-reranker": {},
    "bge-reranker, another seed": {"seed": 5},
    "bge-reranker stored in float16": {"dtype": "float16"},
}


def write(folder: Path, name: str) -> Path:
    """The tiny reranker of a case, by its name."""
    if name in FLAG:
        return tiny_reranker.write_reranker(folder, "xlm-roberta", **FLAG[name])
    case = CROSS_ENCODERS[name]
    return tiny_reranker.write_reranker(folder, case.architecture, **case.write)
