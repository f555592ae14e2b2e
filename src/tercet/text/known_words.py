"""Token ids of words that came before: in BERT's WordPiece they do not depend on a word's neighbours."""

from __future__ import annotations

__all__ = ["KnownWords", "splits_at_spaces"]

from collections.abc import Sequence
from itertools import chain, islice

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

# Of either generation: about 10 MB of words and ids. A word is what stands between spaces, punctuation too.
_MOST_WORDS = 1 << 15
# Longer ones are seldom words, and seldom come again.
_LONGEST = 32
# Once the memory is full, texts of which so large a part is new (numbers, hashes) go to the tokenizer whole;
# it is turned over for what comes after so many calls of them.
_NEW, _CALLS = 0.25, 100
# New words are tokenised so many at a time, which takes half of the time that each alone takes.
_TOGETHER = 32


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
            and not any(map(str.isspace, token.content))  # of a tab the normaliser makes a space
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
        # Words of late, and those before them: what comes again is carried over, so that common ones stay.
        self._recent: dict[str, tuple[int, ...]] = {}
        self._older: dict[str, tuple[int, ...]] = {}
        self._refused = 0
        added = inner.get_added_tokens_decoder().items()
        # A token of its own wherever it stands, which parts the words that are tokenised together. That of
        # unknown words stands among them, too.
        unknown = inner.model.unk_token
        self._parting = next(
            (
                (place, one.content)
                for place, one in added
                if not one.normalized
                and one.content != unknown
                and self._alone([one.content]) == {one.content: (place,)}
            ),
            None,
        )

    def encode(
        self, texts: Sequence[str], before: Sequence[int], after: Sequence[int]
    ) -> list[list[int]] | None:
        """The ids of each text between those of the special tokens; None of texts that are full of new words.

        Raises:
            TypeError, UnicodeEncodeError: a text is not a string of valid Unicode.
        """
        split = [str.split(text, " ") for text in texts]
        words = set(chain.from_iterable(split))
        recent, older = self._recent, self._older
        new = words.difference(recent)
        known = recent
        if new:
            found = {word: older[word] for word in new if word in older}
            unknown = [word for word in new if word not in found]
            full = len(recent) + len(new) > _MOST_WORDS
            if full and len(unknown) > _NEW * sum(map(len, split)):
                self._refused += 1
                if self._refused >= _CALLS:
                    self._refused, self._older, self._recent = 0, recent, {}
                return None
            found |= self._made(unknown)
            if full:
                # Other dictionaries: threads that read the former ones still find what they saw there.
                self._older, self._recent = recent, {}
            kept = ((word, ids) for word, ids in found.items() if len(word) <= _LONGEST)
            self._recent.update(islice(kept, _MOST_WORDS))
            known = {word: found[word] if word in found else recent[word] for word in words}
        ids_of = known.__getitem__
        return [[*before, *chain.from_iterable(map(ids_of, part)), *after] for part in split]

    def _made(self, words: list[str]) -> dict[str, tuple[int, ...]]:
        """The ids of words, by the tokenizer."""
        if self._parting is None:
            return self._alone(words)
        place, content = self._parting
        parted = [word for word in words if content not in word]
        lines = [parted[first : first + _TOGETHER] for first in range(0, len(parted), _TOGETHER)]
        between = f" {content} "
        encoded = self._inner.encode_batch_fast(
            [between.join(line) for line in lines], add_special_tokens=False
        )
        made = self._alone([word for word in words if content in word])
        for line, encoding in zip(lines, encoded, strict=True):
            if encoding.ids.count(place) != len(line) - 1:
                # The vocabulary spells a word of its own as it does the token.
                made |= self._alone(line)
                continue
            ids, first = [*encoding.ids, place], 0
            for word in line:
                last = ids.index(place, first)
                made[word] = tuple(ids[first:last])
                first = last + 1
        return made

    def _alone(self, words: list[str]) -> dict[str, tuple[int, ...]]:
        encoded = self._inner.encode_batch_fast(words, add_special_tokens=False) if words else []
        return {word: tuple(encoding.ids) for word, encoding in zip(words, encoded, strict=True)}
