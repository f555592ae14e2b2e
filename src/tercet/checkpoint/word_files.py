"""WordEmbeddings: a table of vectors of words, and the words, as sentence-transformers saves them."""

from __future__ import annotations

__all__ = ["PHRASES_FILE", "WORDS_FILE", "read_word_embeddings", "refuse_places"]

from collections.abc import Iterable
from pathlib import Path

from tercet.checkpoint.body import UNLIMITED, Body
from tercet.checkpoint.contents import ModuleSpec
from tercet.checkpoint.module_files import module_settings, nothing_left
from tercet.checkpoint.paths import inside
from tercet.checkpoint.weights import Remote, find_weights
from tercet.errors import CheckpointError

WORDS_FILE = "whitespacetokenizer_config.json"
PHRASES_FILE = "phrasetokenizer_config.json"
_SPLITTERS = {"WhitespaceTokenizer": WORDS_FILE, "PhraseTokenizer": PHRASES_FILE}
_TABLE = "emb_layer.weight"


def read_word_embeddings(folder: Path, relative: str, remote: Remote | None = None) -> Body:
    """The table of a WordEmbeddings module, from its header alone; white space parts the words, or NLTK.

    Raises:
        CheckpointError: a file is missing, or splits words in another way, or does not fit.
    """
    path, config = module_settings(folder, relative, name="wordembedding_config.json")
    splitter = config.pop("tokenizer_class", None)
    length = config.pop("max_seq_length", 1_000_000)
    config.pop("update_embeddings", None)
    nothing_left(path, config, {"tokenizer_class", "update_embeddings", "max_seq_length"})
    listed = _SPLITTERS.get(splitter.rsplit(".", 1)[-1]) if isinstance(splitter, str) else None
    if listed is None:
        raise CheckpointError(
            f"{path}: 'tokenizer_class' is {splitter!r}; words split by a {' or a '.join(_SPLITTERS)} are "
            "supported. Use sentence-transformers for this model."
        )
    if type(length) is not int or length < 1:
        raise CheckpointError(
            f"{path}: 'max_seq_length' is {length!r}, expected a positive number. Correct the file."
        )
    words = inside(folder, f"{relative}/{listed}" if relative else listed, said_by="modules.json")
    if not words.is_file():
        raise CheckpointError(f"{words} is missing. Fetch or save the model again.")
    weights = find_weights(folder, relative, remote)
    table = weights.tensors.get(_TABLE)
    if table is None or len(table.shape) != 2 or 0 in table.shape or not table.is_float:
        shown = "missing" if table is None else f"{table.shape} in {table.dtype}"
        raise CheckpointError(
            f"{weights.files[0]}: {_TABLE!r} is {shown}; it must be a table, a row for each word, of "
            "floating-point numbers. Fetch the model again."
        )
    rows, width = table.shape
    return Body(
        architecture="static",
        config={
            "hidden_size": width,
            "num_hidden_layers": 0,
            "num_attention_heads": 0,
            "intermediate_size": 0,
            "vocab_size": rows,
            "table_rows": rows,
            "mapped": False,
            "weighted": False,
        },
        positions=UNLIMITED,
        weights=weights,
        tensors={"embedding.weight": table},
        ignored={name: info for name, info in weights.tensors.items() if name != _TABLE},
        tokenizer_file=words,
        tokenizer_config={"model_max_length": length},
        special_tokens=False,
    )


def refuse_places(folder: Path, modules: Iterable[ModuleSpec]) -> None:
    """An error for a pooling of the first or last word, which a text without a known word does not have."""
    for module in modules:
        if {"cls", "lasttoken"} & set(module.config.get("modes", ())):
            raise CheckpointError(
                f"{folder}: {module.where} takes the first or the last token of a text, and of words a "
                "text may have none. Pass pooling='mean'."
            )
