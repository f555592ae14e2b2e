"""Words and phrases of a list -> ids, as sentence-transformers' PhraseTokenizer finds them."""

from __future__ import annotations

__all__ = ["PhraseTokenizer"]

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tercet.checkpoint.paths import read_json_object
from tercet.errors import CheckpointError
from tercet.extras import require
from tercet.text.words import WordTokenizer, listed_words


class PhraseTokenizer(WordTokenizer):
    """Words as NLTK splits them; neighbours that make a phrase of the list, such as "New_York", become one.

    What is not in the list as it stands is looked for in lower case, then without the punctuation around it.

    Args:
        words: the words and phrases, by id.
        left_out: words without a token.
        separator: what joins the words of a phrase; None where there are no phrases.
        longest: words of a phrase at most; a longer one is found as one word alone.

    Raises:
        MissingExtraError: NLTK, which splits the texts, is not installed.
    """

    def __init__(
        self, words: Sequence[str], *, left_out: frozenset[str], separator: str | None, longest: int
    ) -> None:
        super().__init__(words, left_out=left_out, lowercase=False)
        purpose = "A PhraseTokenizer, which splits words as NLTK does,"
        self._split = require("nltk.tokenize", extra="phrases", purpose=purpose).word_tokenize
        self._separator, self._longest = separator, longest
        lengths = {} if separator is None else {word: _length(word, separator) for word in self._places}
        self._phrases = {word: length for word, length in lengths.items() if 1 < length <= longest}
        self._lengths = sorted(set(self._phrases.values()), reverse=True)

    @classmethod
    def read(cls, path: Path, rows: int) -> PhraseTokenizer:
        """The words of a file, of which each must have one of the table's rows.

        Raises:
            CheckpointError: the file is damaged, or has more words than there are rows.
            MissingExtraError: NLTK is not installed.
        """
        found = read_json_object(path)
        words, left_out = listed_words(path, found, rows)
        separator, longest = found.get("ngram_separator", "_"), found.get("max_ngram_length", 5)
        if not (separator is None or (isinstance(separator, str) and separator)):
            raise CheckpointError(
                f"{path}: 'ngram_separator' is {separator!r}, expected what joins words, such as '_'."
            )
        if type(longest) is not int:
            raise CheckpointError(f"{path}: 'max_ngram_length' is {longest!r}, expected a number of words.")
        return cls(words, left_out=left_out, separator=separator, longest=longest)

    def to_json(self) -> str:
        """The words as phrasetokenizer_config.json has them."""
        found: dict[str, Any] = {
            "vocab": list(self._words),
            "stop_words": sorted(self._left_out),
            "do_lower_case": False,
            "ngram_separator": self._separator,
            "max_ngram_length": self._longest,
        }
        return json.dumps(found)

    def _ids(self, texts: list[str], *, special: bool = True) -> list[list[int]]:
        return [
            [place for word in self._joined(text) if (place := self._place(word)) is not None]
            for text in texts
        ]

    def _joined(self, text: str) -> list[str]:
        """The words of a text, phrases joined: the longest first, and of each length from the left."""
        words: list[str] = self._split(text, preserve_line=True)
        for length in self._lengths:
            first = 0
            while first <= len(words) - length:
                phrase = str(self._separator).join(words[first : first + length])
                for spelled in (phrase, phrase.lower()):
                    if spelled in self._phrases:
                        words[first : first + length] = [spelled]
                        break
                first += 1
        return words

    def _place(self, word: str) -> int | None:
        lower = word.lower()
        for spelled in (word, lower, lower.strip(string.punctuation)):
            if spelled in self._left_out:
                return None
            if spelled and spelled in self._places:
                return self._places[spelled]
        return None


def _length(word: str, separator: str) -> int:
    """How many words a word of the list is made of; 1 where the separator stands twice side by side."""
    return 1 if separator * 2 in word else word.count(separator) + 1
