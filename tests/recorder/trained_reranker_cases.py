"""Rerankers that `tercet train` makes of tiny checkpoints, which the peers then load, and how they are kept.

Read by all sides: where Tercet trains, where the peers are installed, and by the tests; it needs neither.
"""

from __future__ import annotations

__all__ = ["ARCHIVE", "CASES", "LENGTHS", "PAIRS", "RerankerCase", "unpack", "write"]

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny
import tiny_reranker
from recorder import rerankers

ARCHIVE = "trained_rerankers.zip"
PAIRS = rerankers.FILLED
LENGTHS = (60, 25)

_SIZES = {"hidden": 16, "heads": 2, "intermediate": 24}
_LEARNED = (
    ("the cat and the dog", "a dog in the house", "the sun and the moon"),
    ("read a csv file", "open the path and read it line by line", "wait for several coroutines"),
    ("the city of the river", "Paris is the city; London is not in this list", "a random element"),
    ("stars in the film", "one star, two stars, three stars", "close the file"),
)


@dataclass(frozen=True)
class RerankerCase:
    """A tiny checkpoint, the loss, and what changes in the recipe.

    Attributes:
        base: what `tiny.write_checkpoint` is given, or `tiny_reranker.write_reranker`.
        loss: the name of its loss.
        new_head: whether the checkpoint is an encoder, which gets one.
        recipe: keys beside those that all have.
    """

    base: Mapping[str, Any]
    loss: str = "reranker_cross_entropy"
    new_head: bool = True
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """The whole recipe; its paths are those of `write` and a new folder beside them."""
        labelled = self.loss == "reranker_binary"
        data = {"path": "labels.jsonl"} if labelled else {"path": "groups.jsonl", "group_size": 2}
        return {
            "model": "base",
            "output": {"folder": "trained"},
            "data": [data],
            "losses": [{"name": self.loss}],
            "batch": {"texts": 2},
            "optimizer": {"learning_rate": 0.01, "head_learning_rate": 0.1, "schedule": "constant"},
            "steps": 8,
            "precision": "float32",
            **self.recipe,
        }


CASES: Mapping[str, RerankerCase] = {
    "head on a stack with prompts": RerankerCase(
        {
            "layout": "sentence-transformers",
            "modules": ("pooling", "normalize"),
            "prompts": {"query": "search query: "},
            **_SIZES,
        }
    ),
    "head on bge-m3, saved in bfloat16": RerankerCase(
        {"architecture": "xlm-roberta", "layout": "bge-m3", **_SIZES},
        "reranker_distillation",
        recipe={"output": {"folder": "trained", "dtype": "bfloat16"}},
    ),
    "head on distilbert": RerankerCase({"architecture": "distilbert", **_SIZES}, "reranker_binary"),
    "head on mpnet": RerankerCase({"architecture": "mpnet", **_SIZES}),
    "reranker with adapters merged, saved in float16": RerankerCase(
        {"architecture": "xlm-roberta", **_SIZES},
        new_head=False,
        recipe={"output": {"folder": "trained", "dtype": "float16"}, "lora": {"rank": 4}},
    ),
    "cross-encoder of sentence-transformers": RerankerCase(
        {"architecture": "bert", "cross_encoder": True, **_SIZES},
        "reranker_binary",
        new_head=False,
        recipe={"reranker": {"max_length": 20, "truncation": "only_second", "query_max_length": 8}},
    ),
}


def write(folder: Path, name: str) -> Path:
    """The folder, now holding a case's checkpoint and the examples that it learns from."""
    case = CASES[name]
    make = tiny.write_checkpoint if case.new_head else tiny_reranker.write_reranker
    make(folder / "base", **case.base)
    groups = [
        {"query": query, "pos": [own], "neg": [other], "pos_scores": [2.0], "neg_scores": [-1.0]}
        for query, own, other in _LEARNED
    ]
    pairs = [
        {"sentence1": query, "sentence2": text, "label": label}
        for query, own, other in _LEARNED
        for text, label in ((own, 1.0), (other, 0.0))
    ]
    for file, lines in (("groups.jsonl", groups), ("labels.jsonl", pairs)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / file).write_text(text, encoding="utf-8")
    return folder


def unpack(archive: Path, folder: Path) -> dict[str, Path]:
    """Case -> its folder, of all cases that the archive must hold."""
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    found = {path.name: path for path in folder.iterdir()}
    assert found.keys() == CASES.keys(), f"{archive} holds other cases: run tests/recorder/train_folders.py"
    return found
