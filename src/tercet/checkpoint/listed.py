"""Weights that a JSON file lists by token: {"paris": 7.2}, as idf.json of inference-free SPLADE models."""

from __future__ import annotations

__all__ = ["ListedWeights", "listed_weights", "read_listed"]

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.paths import finite, read_json_object
from tercet.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class ListedWeights(TensorInfo):
    """A float32 number for each token id, of a file that names tokens.

    Attributes:
        vocabulary_file: the tokenizer.json that says which id each of them has.
    """

    vocabulary_file: Path

    def values(self) -> Tensor:
        """The numbers, read anew; errors as of `read_listed`."""
        return read_listed(self)


def listed_weights(file: Path, vocabulary_file: Path) -> tuple[ListedWeights, list[str]]:
    """What the file lists, and the tokens among it that the vocabulary does not have.

    Raises:
        CheckpointError: one of the files is missing or damaged, or lists something else than numbers.
    """
    ids = _ids(vocabulary_file)
    unknown = [token for token in _numbers(file) if token not in ids]
    return ListedWeights("weight", "float32", (len(ids),), file, None, vocabulary_file), unknown


def read_listed(info: ListedWeights) -> Tensor:
    """(vocabulary,) in float32; zero for a token that the file does not list.

    A token that the vocabulary does not have is left out: it is none of "[UNK]"'s.
    """
    ids = _ids(info.vocabulary_file)
    if (len(ids),) != info.shape:
        raise CheckpointError(f"{info.vocabulary_file} changed while in use. Load the model again.")
    made = torch.zeros(info.shape, dtype=torch.float32)
    known = {ids[token]: number for token, number in _numbers(info.file).items() if token in ids}
    made[list(known)] = torch.tensor(list(known.values()), dtype=torch.float32)
    return made


def _numbers(file: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for token, given in read_json_object(file).items():
        if (number := finite(given)) is None:
            raise CheckpointError(
                f"{file}: the weight of {token!r} is {given!r}, expected a number. Fetch or save it again."
            )
        found[token] = number
    return found


def _ids(file: Path) -> dict[str, int]:
    """Token -> id, added tokens included, of a tokenizer.json."""
    found = read_json_object(file)
    model = found.get("model")
    listed: Any = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(listed, list):  # SentencePiece's unigrams: pairs of token and score, by id
        pairs = ((number, pair) for number, pair in enumerate(listed) if isinstance(pair, list) and pair)
        listed = {str(pair[0]): number for number, pair in pairs}
    added = found.get("added_tokens") or []
    ids = dict(listed) if isinstance(listed, dict) else {}
    if isinstance(added, list):
        ids |= {
            str(one["content"]): one.get("id") for one in added if isinstance(one, dict) and "content" in one
        }
    if not ids or not all(type(number) is int and 0 <= number < len(ids) for number in ids.values()):
        raise CheckpointError(
            f"{file}: its vocabulary is not a list of tokens with ids from 0 on. Fetch the file again."
        )
    return ids
