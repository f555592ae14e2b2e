"""Token ids of words that came before: in BERT's WordPiece they do not depend on a word's neighbours."""

from __future__ import annotations

__all__ = ["KnownWords", "splits_at_spaces"]

from collections.abc import Sequence
from itertools import chain, islice

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

# About 10 MB of words and ids. A word is what stands between spaces, with its punctuation.
_MOST_WORDS = 1 << 15
# Longer ones are seldom words, and seldom come again.
_LONGEST = 32
# Once the memory is full, texts of which so large a part is new (numbers, hashes) go to the tokenizer whole;
# it is emptied for what comes after so many calls of them.
_NEW, _CALLS = 0.25, 100


def splits_at_spaces(inner: tokenizers.Tokenizer) -> bool:
    """Whether a text's tokens are those of its parts between spaces, one part after the other.

    So it is of BERT's normaliser, which goes by characters, its splitting at white space and punctuation, and
    WordPiece, unless an added token reaches across a space or looks at what stands beside it.
    """
    return (
        isinstance(inner.normalizer, normalizers.BertNormalizer)
        and isinstance(inner.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and isinstance(inner.model, models.WordPiece)
        and all(
            token.content.isascii()
            and " " not in token.content
            and not (token.lstrip or token.rstrip or token.single_word)
            for token in inner.get_added_tokens_decoder().values()
        )
    )


class KnownWords:
    """A memory of words' token ids. Any number of threads may use it.

    Args:
        inner: a tokenizer of which `splits_at_spaces` is true.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self._inner = inner
        self._ids: dict[str, tuple[int, ...]] = {}
        self._refused = 0

    def encode(
        self, texts: Sequence[str], before: Sequence[int], after: Sequence[int]
    ) -> list[list[int]] | None:
        """The ids of each text between those of the special tokens; None of texts that are full of new words.

        Raises:
            TypeError, UnicodeEncodeError: a text is not a string of valid Unicode.
        """
        split = [str.split(text, " ") for text in texts]
        words = set(chain.from_iterable(split))
        known = self._ids
        new = list(words.difference(known))
        full = len(known) + len(new) > _MOST_WORDS
        if full and len(new) > _NEW * sum(map(len, split)):
            self._refused += 1
            if self._refused >= _CALLS:
                self._refused, self._ids = 0, {}
            return None
        if new:
            found = self._inner.encode_batch_fast(new, add_special_tokens=False)
            made = {word: tuple(encoding.ids) for word, encoding in zip(new, found, strict=True)}
            if full:
                # Another dictionary: threads that read the old one still find what they saw there.
                self._ids = {}
            kept = ((word, ids) for word, ids in made.items() if len(word) <= _LONGEST)
            self._ids.update(islice(kept, _MOST_WORDS))
            known = {word: made[word] if word in made else known[word] for word in words}
        ids_of = known.__getitem__
        return [[*before, *chain.from_iterable(map(ids_of, part)), *after] for part in split]
