"""Stacks on BoW, for the recorder and the tests."""

from __future__ import annotations

__all__ = ["CASES", "PROMPT", "TEXTS", "BagCase", "write"]

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny
from tiny_modules import CLASSES, Part, dense, normalize

TEXTS = (
    "",
    "nothing-known Anywhere?",
    "The cat, the dog: (three) BIRDS and Paris, the cat!",
    "random ... element ### [SEP] read a csv file",
    "wait for several coroutines " * 12,
)
PROMPT = "the cat: "


@dataclass(frozen=True)
class BagCase:
    """Modules behind the words, and changes to their settings."""

    parts: tuple[Part, ...] = ()
    bag: Mapping[str, Any] = field(default_factory=dict)


CASES: Mapping[str, BagCase] = {
    "words": BagCase(),
    "dense, normalize": BagCase((dense("bag", 16), normalize())),
    "normalize": BagCase((normalize(),)),
    "once each": BagCase(bag={"cumulative_term_frequency": False}),
    # The first is listed twice, the second has the weight of its lower case, the last is no word.
    "listed twice": BagCase(
        bag={
            "vocab": ["the", "Paris", "the", "cat", "csv"],
            "word_weights": {"paris": -2.5, "the": 0.1, "cat": 3, "rome": 7.0},
            "unknown_word_weight": 0.25,
        }
    ),
}


def write(folder: Path, name: str, *, dtype: str = "float32") -> Path:
    """The folder of a case: 220 words, of which every third has a weight; `dtype` is that of a Dense."""
    case = CASES[name]
    vocabulary = tiny.tokenizer("bert").get_vocab()
    words = sorted(vocabulary, key=lambda word: vocabulary[word])
    bag = {
        "vocab": words,
        "word_weights": {word: 0.5 + place / 100 for place, word in enumerate(words) if place % 3},
        "unknown_word_weight": 0.7,
        "cumulative_term_frequency": True,
        **case.bag,
    }
    made = folder / "0_BoW"
    made.mkdir(parents=True)
    (made / "config.json").write_text(json.dumps(bag))
    entries = [{"idx": 0, "name": "0", "path": made.name, "type": f"{CLASSES}.bow.BoW"}]
    width = len(words)
    for place, part in enumerate(case.parts, start=1):
        aside = folder / "part"
        aside.mkdir()
        kind, width = part(aside, width, dtype, False)
        aside.rename(folder / f"{place}_{kind}")
        reference = f"sentence_transformers.models.{kind}"
        entries.append({"idx": place, "name": str(place), "path": f"{place}_{kind}", "type": reference})
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": PROMPT}}))
    return folder
