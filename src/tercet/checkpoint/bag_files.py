"""BoW of sentence-transformers: words that are counted, and how much each counts, all in one config.json."""

from __future__ import annotations

__all__ = ["BAG_FILE", "BAG_OF_WORDS", "MOST_WORDS", "bag_of_words", "bag_vocabulary", "read_bag"]

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tercet.checkpoint.body import UNLIMITED, Body
from tercet.checkpoint.contents import ModuleSpec
from tercet.checkpoint.listed import ListedWeights
from tercet.checkpoint.module_files import module_settings, nothing_left
from tercet.checkpoint.paths import finite, read_json_object
from tercet.checkpoint.weights import Remote, Weights
from tercet.errors import CheckpointError

# The kind of module.
BAG_OF_WORDS = "bag_of_words"
BAG_FILE = "config.json"
# A text's vector has a number for each word: at most half a megabyte.
MOST_WORDS = 1 << 17
_KEYS = {"vocab", "word_weights", "unknown_word_weight", "cumulative_term_frequency"}


@dataclass(frozen=True, slots=True)
class BagWeights(ListedWeights):
    """A float32 number for each word of a bag, of the file that lists them."""

    def values(self) -> Tensor:
        """(words,) in float32.

        Raises:
            CheckpointError: the file is gone, damaged or another one.
        """
        config = read_json_object(self.file)
        words = bag_vocabulary(self.file, config)
        if (len(words),) != self.shape:
            raise CheckpointError(f"{self.file} changed while in use. Load the model again.")
        return torch.tensor(_weights(self.file, config, words), dtype=torch.float32)


def bag_of_words(folder: Path, relative: str) -> ModuleSpec:
    """The module that makes a text's vector of its words.

    Raises:
        CheckpointError: a setting is not known or not what it must be, or there are too many words.
    """
    info, counted = _read(folder, relative)
    where = f"{relative or 'the root'} (BoW)"
    return ModuleSpec(
        BAG_OF_WORDS, where, {"out_width": info.numbers, "counted": counted}, tensors={"weight": info}
    )


def read_bag(folder: Path, relative: str, remote: Remote | None = None) -> Body:
    """What stands before that module: the ids of words alone; no text is cut.

    Raises:
        CheckpointError: as of `bag_of_words`.
    """
    info, _ = _read(folder, relative)
    return Body(
        architecture="token-presence",
        config={
            "hidden_size": 1,
            "num_hidden_layers": 0,
            "num_attention_heads": 0,
            "intermediate_size": 0,
            "vocab_size": info.numbers,
        },
        positions=UNLIMITED,
        weights=Weights("safetensors", (info.file,), {"weight": info}),
        tensors={},
        ignored={},
        tokenizer_file=info.file,
        tokenizer_config={},
        special_tokens=False,
    )


def bag_vocabulary(path: Path, config: dict[str, Any]) -> list[str]:
    """The words in their order, each once, as the original makes them so.

    Raises:
        CheckpointError: it is no list of words, or an empty one.
    """
    words = config.get("vocab")
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise CheckpointError(f"{path}: 'vocab' is not a list of words. Fetch or save the model again.")
    return list(dict.fromkeys(words))


def _read(folder: Path, relative: str) -> tuple[BagWeights, bool]:
    """The weights of a bag, and whether a word counts as often as it occurs."""
    path, config = module_settings(folder, relative, name=BAG_FILE)
    nothing_left(path, {key: value for key, value in config.items() if key not in _KEYS}, _KEYS)
    words = bag_vocabulary(path, config)
    if len(words) > MOST_WORDS:
        raise CheckpointError(
            f"{path} has {len(words):,} words, and a vector with a number for each of them is made of every "
            f"text; up to {MOST_WORDS:,} are supported. Use sentence-transformers for this model, or train "
            "it with fewer words."
        )
    counted = config.get("cumulative_term_frequency", True)
    if type(counted) is not bool:
        raise CheckpointError(
            f"{path}: 'cumulative_term_frequency' is {counted!r}, expected true or false. Correct the file."
        )
    _weights(path, config, words)
    return BagWeights("weight", "float32", (len(words),), path, None, path), counted


def _weights(path: Path, config: dict[str, Any], words: list[str]) -> list[float]:
    """The weight of each word: its own, that of its lower case, or that of words without one."""
    given = config.get("word_weights", {})
    if not isinstance(given, dict):
        raise CheckpointError(f"{path}: 'word_weights' is not a weight for each word. Save the model again.")
    usual = _number(path, "'unknown_word_weight'", config.get("unknown_word_weight", 1))
    return [
        next(
            (
                _number(path, f"the weight of {spelled!r}", given[spelled])
                for spelled in (word, word.lower())
                if spelled in given
            ),
            usual,
        )
        for word in words
    ]


def _number(path: Path, name: str, given: object) -> float:
    number = finite(given)
    if number is None or abs(number) > torch.finfo(torch.float32).max:
        raise CheckpointError(
            f"{path}: {name} is {given!r}, expected a number that float32 can hold. Fetch or save it again."
        )
    return number
