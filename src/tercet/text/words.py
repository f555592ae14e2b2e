"""Words between white space -> ids, as sentence-transformers' WhitespaceTokenizer finds them."""

from __future__ import annotations

__all__ = ["WordTokenizer", "listed_words"]

import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from tercet.checkpoint.bag_files import BAG_FILE, bag_vocabulary
from tercet.checkpoint.paths import read_json_object
from tercet.errors import CheckpointError
from tercet.text.tokenizer import Tokenizer

# A tokenizer needs some vocabulary to be made; this one is never asked.
_NO_WORDS = {"": 0}


class WordTokenizer(Tokenizer):
    """Words of a list. Those that are not in it as they stand are looked for without the punctuation around
    them, then in lower case; what is not found then, or is to be left out, has no token.
    """

    def __init__(self, words: Sequence[str], *, left_out: frozenset[str], lowercase: bool) -> None:
        super().__init__(
            tokenizers.Tokenizer(tokenizers.models.WordLevel(_NO_WORDS, unk_token="")),
            special_ids=frozenset(),
            lowercase=lowercase,
        )
        self._prefix = self._suffix = 0
        self._words = tuple(words)
        self._places = {word: place for place, word in enumerate(words)}
        self._left_out = left_out
        self.vocabulary_size = len(self._words)

    @classmethod
    def read(cls, path: Path, rows: int) -> WordTokenizer:
        """The words of a file, of which each must have one of the table's rows; those of a BoW are its rows.

        Raises:
            CheckpointError: the file is damaged, or has more words than there are rows.
        """
        found = read_json_object(path)
        if path.name == BAG_FILE:
            return cls(bag_vocabulary(path, found), left_out=frozenset(), lowercase=False)
        words, left_out = listed_words(path, found, rows)
        lowercase = found.get("do_lower_case", False)
        if type(lowercase) is not bool:
            raise CheckpointError(f"{path}: 'do_lower_case' is {lowercase!r}, expected true or false.")
        return cls(words, left_out=left_out, lowercase=lowercase)

    def id_to_token(self, token_id: int) -> str:
        """The word of an id; "<id 7>" of an id that has none."""
        return self._words[token_id] if 0 <= token_id < len(self._words) else f"<id {token_id}>"

    def token_to_id(self, token: str) -> int | None:
        """The id of a word, None of an unknown one."""
        return self._places.get(token)

    def decode(self, ids: Sequence[int]) -> str:
        """The words of ids."""
        return " ".join(self.id_to_token(place) for place in ids)

    def to_json(self) -> str:
        """The words as whitespacetokenizer_config.json has them."""
        found: dict[str, Any] = {
            "vocab": list(self._words),
            "stop_words": sorted(self._left_out),
            "do_lower_case": self._lowercase,
        }
        return json.dumps(found)

    def _ids(self, texts: list[str], *, special: bool = True) -> list[list[int]]:
        return [
            [place for word in text.split() if (place := self._place(word)) is not None] for text in texts
        ]

    def _place(self, word: str) -> int | None:
        bare = word.strip(string.punctuation)
        for spelled in (word, bare, bare.lower()):
            if spelled in self._left_out:
                return None
            if spelled and spelled in self._places:  # of "..." nothing is left without punctuation
                return self._places[spelled]
        return None

    def _beginning(self, text: str, max_length: int) -> str | None:
        return None


def listed_words(path: Path, found: Mapping[str, Any], rows: int) -> tuple[list[str], frozenset[str]]:
    """The words of a file, and those of them that have no token.

    Raises:
        CheckpointError: one of the two is no list of words, or there are more words than rows of the table.
    """
    words, left_out = found.get("vocab"), found.get("stop_words", [])
    for key, value in (("vocab", words), ("stop_words", left_out)):
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise CheckpointError(f"{path}: {key!r} is not a list of words. Fetch or save it again.")
    words = words or []
    if len(words) > rows:
        raise CheckpointError(
            f"{path} has {len(words):,} words, the table {rows:,} rows. They are of different saves; fetch "
            "the model again."
        )
    return words, frozenset(left_out)
