"""Models that `tercet train` makes of tiny checkpoints, which the peers then load, and how they are kept.

Read by all sides: where Tercet trains, where the peers are installed, and by the tests; it needs neither.
"""

from __future__ import annotations

__all__ = ["CASES", "PAIRS", "TEXTS", "WEIGHTS", "TrainedCase", "pack", "unpack", "write"]

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny
from recorder import cases

TEXTS = cases.TEXTS
PAIRS = cases.PAIRS
WEIGHTS = (0.4, 0.2, 0.4)

_SIZES = {"hidden": 16, "heads": 2, "intermediate": 24}
_PROMPTS = {"query": "search query: ", "document": "the text: "}
_LEARNED = (
    ("the cat and the dog", "a dog in the house", "the sun and the moon"),
    ("read a csv file", "open the path and read it line by line", "wait for several coroutines"),
    ("the city of the river", "Paris is the city; London is not in this list", "a random element"),
    ("stars in the film", "one star, two stars, three stars", "close the file"),
)


@dataclass(frozen=True)
class TrainedCase:
    """A tiny checkpoint, what changes in the recipe, and FlagEmbedding's options for what comes of it.

    Attributes:
        base: what `tiny.write_checkpoint` is given.
        outputs: that are trained.
        recipe: keys beside those that all have.
        flag: None where there are no heads, without which FlagEmbedding's M3 class loads nothing.
    """

    base: Mapping[str, Any]
    outputs: tuple[str, ...] = ("dense", "sparse", "multivector")
    recipe: Mapping[str, Any] = field(default_factory=dict)
    flag: Mapping[str, Any] | None = None

    def values(self) -> dict[str, Any]:
        """The whole recipe; its paths are those of `write` and a new folder beside them."""
        terms = [{"name": "info_nce", "head": name, "options": {"temperature": 0.1}} for name in self.outputs]
        return {
            "model": "base",
            "output": {"folder": "trained"},
            "data": [{"path": "pairs.jsonl", "group_size": 2}],
            "losses": terms,
            "batch": {"texts": 2},
            "optimizer": {"learning_rate": 0.01, "head_learning_rate": 0.05, "schedule": "constant"},
            "steps": 4,
            "precision": "float32",
            "query_max_length": 40,
            "document_max_length": 40,
            **self.recipe,
        }


CASES: Mapping[str, TrainedCase] = {
    "heads added to a stack with prompts": TrainedCase(
        {
            "layout": "sentence-transformers",
            "modules": ("pooling", "normalize"),
            "prompts": _PROMPTS,
            **_SIZES,
        },
        recipe={"heads": {"sparse": True, "multivector": 8}},
        flag={"pooling_method": "mean", "colbert_dim": 8},
    ),
    "bge-m3 saved in float16": TrainedCase(
        {"architecture": "xlm-roberta", "layout": "bge-m3", **_SIZES},
        recipe={"output": {"folder": "trained", "dtype": "float16"}},
        flag={"pooling_method": "cls"},
    ),
    "dense alone, pooled by the first token": TrainedCase(
        {"max_seq_length": 20, **_SIZES}, outputs=("dense",), recipe={"pooling": "cls"}
    ),
    "dense alone, saved in bfloat16": TrainedCase(
        {"architecture": "xlm-roberta", **_SIZES},
        outputs=("dense",),
        recipe={"output": {"folder": "trained", "dtype": "bfloat16"}, "pooling": "mean"},
    ),
    "dense alone, normalised, prompts left out": TrainedCase(
        {
            "layout": "sentence-transformers",
            "modules": ("pooling",),
            "prompts": _PROMPTS,
            "seed": 7,
            **_SIZES,
        },
        outputs=("dense",),
        recipe={"normalize": True, "include_prompt": False},
    ),
    "heads added, saved in bfloat16": TrainedCase(
        {"seed": 3, **_SIZES},
        recipe={
            "output": {"folder": "trained", "dtype": "bfloat16"},
            "pooling": "mean",
            "heads": {"sparse": True, "multivector": 12},
        },
        flag={"pooling_method": "mean", "colbert_dim": 12},
    ),
    "adapters merged": TrainedCase(
        {"seed": 5, **_SIZES},
        recipe={
            "seed": 2,
            "pooling": "cls",
            "lora": {"rank": 4, "alpha": 16.0},
            "heads": {"sparse": True, "multivector": 8},
        },
        flag={"pooling_method": "cls", "colbert_dim": 8},
    ),
}


def write(folder: Path, name: str) -> Path:
    """The folder, now holding a case's checkpoint and the examples that it learns from."""
    tiny.write_checkpoint(folder / "base", **CASES[name].base)
    lines = [{"query": query, "pos": [own], "neg": [other]} for query, own, other in _LEARNED]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "pairs.jsonl").write_text(text, encoding="utf-8")
    return folder


def pack(archive: Path, folders: Mapping[str, Path]) -> None:
    """Writes all files of the folders into one zip file: case/path; equal files give an equal archive."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, folder in folders.items():
            for path in sorted(one for one in folder.rglob("*") if one.is_file()):
                entry = zipfile.ZipInfo(f"{name}/{path.relative_to(folder).as_posix()}")
                entry.compress_type = zipfile.ZIP_DEFLATED
                file.writestr(entry, path.read_bytes())


def unpack(archive: Path, folder: Path) -> dict[str, Path]:
    """Case -> its folder, of all cases that the archive must hold."""
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    found = {path.name: path for path in folder.iterdir()}
    assert found.keys() == CASES.keys(), f"{archive} holds other cases: run tests/recorder/train_folders.py"
    return found
