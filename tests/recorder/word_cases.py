"""Stacks on WordEmbeddings, for the recorder and the tests."""

from __future__ import annotations

__all__ = ["CASES", "TEXTS", "WordCase", "write"]

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import tiny
import tiny_modules
from tiny_modules import Part, cnn, lstm, normal, pooling, word_weights

TEXTS = (
    "",
    "nothing-known Anywhere?",
    "The cat, the dog: (three) BIRDS and Paris!",
    "random ... element ### [SEP] read a csv file",
    "wait for several coroutines " * 12,
    "I can't see New York City, nor the new york (times) of NEW YORK. "
    'The csv\u2019s file isn\'t "the cat"... a__b',
)
# What sentence-transformers looks for: longer phrases first, in lower case if not as they stand.
PHRASES: Mapping[str, Any] = {
    "vocab": [
        *("the", "New_York", "new_york", "New_York_City", "is_n't", "cat", "csv", "a__b", "file", "ca", "_"),
        *(
            "nor_the_new",
            "times",
            "a_b_c_d_e_f",
            "the_cat",
            "several_coroutines_wait",
            "wait_for",
            "'s",
            "``",
        ),
        *("dog", "read_a_csv_file", "the", "element", "#", "..."),
    ],
    "stop_words": ["and", "of"],
    "do_lower_case": True,  # which the original does not look at
    "ngram_separator": "_",
    "max_ngram_length": 5,
}
_CLASSES = "sentence_transformers.sentence_transformer.modules"


@dataclass(frozen=True)
class WordCase:
    """Modules behind the table, and changes to the settings of table and words.

    `phrases`: settings of a PhraseTokenizer, which then stands in place of the WhitespaceTokenizer.
    """

    parts: tuple[Part, ...]
    table: Mapping[str, Any] = field(default_factory=dict)
    words: Mapping[str, Any] = field(default_factory=dict)
    phrases: Mapping[str, Any] | None = None


CASES: Mapping[str, WordCase] = {
    "mean of words": WordCase((pooling(),)),
    "lower case, stop words": WordCase(
        (pooling("mean", "mean_sqrt_len_tokens"),),
        words={"do_lower_case": True, "stop_words": ["the", "a", "three"]},
    ),
    "weighted words, short": WordCase((word_weights(), pooling()), table={"max_seq_length": 7}),
    "lstm of words": WordCase((lstm(8), pooling("max"))),
    "phrases": WordCase((pooling(),), phrases=PHRASES),
    "phrases of two words, stop words": WordCase(
        (word_weights(), pooling()),
        phrases={**PHRASES, "max_ngram_length": 2, "stop_words": ["the", "cat", "is_not"]},
    ),
    "phrases with another separator": WordCase(
        (pooling(),),
        phrases={"vocab": ["New York", "the", "new", "York", "a  b"], "ngram_separator": " "},
    ),
    "no phrases": WordCase(
        (pooling(),), table={"max_seq_length": 3}, phrases={**PHRASES, "ngram_separator": None}
    ),
    "cnn of words": WordCase((cnn(4, (1, 3)), pooling())),
}


def write(folder: Path, name: str, *, dtype: str = "float32") -> Path:
    """The folder of a case: 220 words, or those of its phrases, and a table of 220 rows of width 32."""
    case = CASES[name]
    tiny_modules.write_stack(folder, case.parts, dtype=dtype)
    for path in folder.iterdir():
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.unlink()
    vocabulary = tiny.tokenizer("bert").get_vocab()
    words = sorted(vocabulary, key=lambda word: vocabulary[word])
    made = folder / "0_WordEmbeddings"
    made.mkdir()
    settings = {
        "tokenizer_class": f"{_CLASSES}.tokenizer.whitespace.WhitespaceTokenizer",
        "update_embeddings": False,
        "max_seq_length": 1_000_000,
        **case.table,
    }
    listed = {"vocab": words, "stop_words": [], "do_lower_case": False, **case.words}
    if case.phrases is not None:
        settings["tokenizer_class"] = f"{_CLASSES}.tokenizer.phrase.PhraseTokenizer"
        listed = {**PHRASES, **case.phrases}
    (made / "wordembedding_config.json").write_text(json.dumps(settings))
    file = "whitespacetokenizer" if case.phrases is None else "phrasetokenizer"
    (made / f"{file}_config.json").write_text(json.dumps(listed))
    table = normal("words", (len(words), 32), 1.0).to(getattr(torch, dtype))
    save_file({"emb_layer.weight": table}, made / "model.safetensors", metadata={"format": "pt"})
    path = folder / "modules.json"
    entries = json.loads(path.read_text())
    entries[0] |= {"path": "0_WordEmbeddings", "type": f"{_CLASSES}.word_embeddings.WordEmbeddings"}
    path.write_text(json.dumps(entries))
    return folder
