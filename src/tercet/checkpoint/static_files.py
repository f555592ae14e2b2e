"""A table of static embeddings: sentence-transformers' StaticEmbedding, and folders of model2vec."""

from __future__ import annotations

__all__ = ["is_model2vec", "normalizes", "read_model2vec", "read_static"]

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tercet.checkpoint.body import UNLIMITED, Body
from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.paths import inside, read_json_object
from tercet.checkpoint.weights import Remote, find_weights
from tercet.errors import CheckpointError

# model2vec's name -> ours, which is sentence-transformers'.
_NAMES = {"embeddings": "embedding.weight"}
_OPTIONAL = ("mapping", "weights")
# Where config.json of a model2vec folder names no length.
_MODEL2VEC_TOKENS = 512


def read_static(folder: Path, relative: str, remote: Remote | None = None) -> Body:
    """The table of a StaticEmbedding module, from its header alone.

    A text is cut only where tokenizer.json says so, as in sentence-transformers.

    Raises:
        CheckpointError: the table or its tokenizer is missing, or what is there does not fit together.
    """
    tokenizer_file = inside(
        folder, f"{relative}/tokenizer.json" if relative else "tokenizer.json", said_by="modules.json"
    )
    if not tokenizer_file.is_file():
        raise CheckpointError(
            f"{tokenizer_file} is missing; a StaticEmbedding takes its token ids from it. Fetch the model "
            "again, or copy the tokenizer that it was trained with there."
        )
    weights = find_weights(folder, relative, remote)
    place = weights.files[0]
    named = {_NAMES.get(name, name): info for name, info in weights.tensors.items()}
    if len(named) < len(weights.tensors):
        raise CheckpointError(
            f"{place} has both 'embedding.weight' and 'embeddings'; it is not known which is meant. "
            "Remove one of them."
        )
    if "embedding.weight" not in named:
        raise CheckpointError(
            f"{place} has neither 'embedding.weight' nor 'embeddings', but {', '.join(sorted(named)[:6])}: "
            "it is no table of static embeddings. Fetch the model again."
        )
    # Beside a table of sentence-transformers' own, the others mean nothing.
    used = ("embedding.weight", *(_OPTIONAL if "embeddings" in weights.tensors else ()))
    tensors = {name: info for name, info in named.items() if name in used}
    ignored = {name: info for name, info in named.items() if name not in used}
    rows, width, vocabulary = _sizes(tensors, place)
    config = {
        "hidden_size": width,
        "num_hidden_layers": 0,
        "num_attention_heads": 0,
        "intermediate_size": 0,
        "vocab_size": vocabulary,
        "table_rows": rows,
        "mapped": "mapping" in tensors,
        "weighted": "weights" in tensors,
    }
    return Body(
        architecture="static",
        config=config,
        positions=UNLIMITED,
        weights=weights,
        tensors=tensors,
        ignored=ignored,
        tokenizer_file=tokenizer_file,
        tokenizer_config=_length(_cut(tokenizer_file)),
        special_tokens=False,
    )


def is_model2vec(folder: Path) -> bool:
    """Whether config.json says that the folder is model2vec's."""
    path = inside(folder, "config.json", said_by="config.json")
    return path.is_file() and read_json_object(path).get("model_type") == "model2vec"


def normalizes(folder: Path) -> bool:
    """Whether the vectors of a model2vec folder have unit length."""
    path = inside(folder, "config.json", said_by="config.json")
    found = read_json_object(path).get("normalize")
    if found not in (None, True, False):
        raise CheckpointError(f"{path}: 'normalize' is {found!r}, expected true or false. Correct the file.")
    return bool(found)


def read_model2vec(folder: Path, remote: Remote | None = None) -> Body:
    """The table of a model2vec folder without modules.json.

    Read as sentence-transformers' `StaticEmbedding.from_model2vec` reads it: tokens that the tokenizer does
    not know count like others, which model2vec itself leaves out.

    Raises:
        CheckpointError: as `read_static`, or a setting of config.json cannot be.
    """
    path = inside(folder, "config.json", said_by="config.json")
    tokens = read_json_object(path).get("max_length", _MODEL2VEC_TOKENS)
    if tokens is not None and (type(tokens) is not int or tokens < 1):
        raise CheckpointError(
            f"{path}: 'max_length' is {tokens!r}, expected a positive number or null. Correct it."
        )
    return replace(read_static(folder, "", remote), tokenizer_config=_length(tokens))


def _sizes(tensors: Mapping[str, TensorInfo], place: Path) -> tuple[int, int, int]:
    """Rows and width of the table, and how many token ids there are."""
    table, mapping, weights = (tensors.get(name) for name in ("embedding.weight", *_OPTIONAL))
    assert table is not None
    if len(table.shape) != 2 or 0 in table.shape or not (table.is_float or table.dtype == "int8"):
        raise CheckpointError(
            f"{place}: {table.name!r} is {table.shape} in {table.dtype}; it must be a table, a row for each "
            "token, of floating-point numbers or int8. Fetch the model again."
        )
    rows, width = table.shape
    if mapping is not None and (len(mapping.shape) != 1 or mapping.dtype not in ("int64", "int32")):
        raise CheckpointError(
            f"{place}: 'mapping' is {mapping.shape} in {mapping.dtype}; it must be the number of a row for "
            "each token id, in int64 or int32. Fetch the model again."
        )
    vocabulary = rows if mapping is None else mapping.shape[0]
    if weights is not None and (weights.shape != (vocabulary,) or not weights.is_float):
        raise CheckpointError(
            f"{place}: 'weights' is {weights.shape} in {weights.dtype}; it must be a floating-point number "
            f"for each of {vocabulary:,} token ids. Fetch the model again."
        )
    return rows, width, vocabulary


def _cut(tokenizer_file: Path) -> int | None:
    """Tokens after which tokenizer.json itself cuts a text; None where it does not."""
    found = read_json_object(tokenizer_file).get("truncation")
    if found is None:
        return None
    length = found.get("max_length") if isinstance(found, dict) else None
    if not isinstance(found, dict) or type(length) is not int or length < 1:
        raise CheckpointError(
            f"{tokenizer_file}: 'truncation' is {found!r}, expected a max_length. Fetch the file again."
        )
    if found.get("direction", "Right") != "Right":
        raise CheckpointError(
            f"{tokenizer_file}: 'truncation' cuts the beginning of a text; only its end can be cut. "
            "Save the tokenizer with truncation on the right, or without."
        )
    return length


def _length(tokens: int | None) -> dict[str, object]:
    return {} if tokens is None else {"model_max_length": tokens}
