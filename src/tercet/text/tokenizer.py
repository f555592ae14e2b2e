"""Text + prompt -> token ids, with the checkpoint's own tokenizer and our own truncation."""

from __future__ import annotations

__all__ = ["Encoded", "Tokenizer", "special_token"]

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import tokenizers
import torch

from tercet.batch import Batch
from tercet.checkpoint.bag_files import BAG_FILE
from tercet.checkpoint.layout import Checkpoint
from tercet.checkpoint.word_files import PHRASES_FILE, WORDS_FILE
from tercet.errors import CheckpointError, InputError
from tercet.extras import require
from tercet.text.known_words import KnownWords, splits_at_spaces

logger = logging.getLogger(__name__)

# Files that transformers can convert to tokenizer.json.
_CONVERTIBLE = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "vocab.txt", "vocab.json")
_SPECIAL_ROLES = ("cls_token", "sep_token", "bos_token", "eos_token", "pad_token", "unk_token")
# A text with more characters than this for each token of the limit is first tried by its beginning alone.
_CHARACTERS_PER_TOKEN = 16
_WHITESPACE_WINDOW = 4096


@dataclass(frozen=True, slots=True)
class Encoded:
    """Several texts as token ids.

    Attributes:
        ids: token ids of each text, special tokens included.
        truncated: whether each text was cut.
        prompt_tokens: leading tokens of each text that are the prompt's (with the tokens before it), 0
            without a prompt.
        attended: how many tokens of each text, from its first on, are looked at; None for all.
    """

    ids: list[list[int]]
    truncated: list[bool]
    prompt_tokens: int
    attended: list[int] | None = None

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [len(ids) for ids in self.ids]

    def batch(self, part: slice) -> Batch:
        """Some of the texts laid end to end."""
        batch = Batch.from_ids(self.ids[part])
        if self.attended is None:
            return batch
        return replace(batch, attended=torch.tensor(self.attended[part], dtype=torch.int64))


class Tokenizer:
    """A checkpoint's tokenizer. What it gives never changes; any number of threads may use it."""

    def __init__(
        self, inner: tokenizers.Tokenizer, *, special_ids: frozenset[int], lowercase: bool = False
    ) -> None:
        # The file's own truncation and padding belong to whoever saved it: the packaged MiniLM pads and cuts
        # at 128 tokens while it takes 256.
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        self._lowercase = lowercase
        self.special_ids = special_ids
        self.vocabulary_size = inner.get_vocab_size(with_added_tokens=True)
        mask = inner.encode("a").special_tokens_mask
        self._suffix = _leading_ones(mask[::-1])
        self._prefix = _leading_ones(mask)
        # A prompt comes again with every query.
        self._prompt_tokens = lru_cache(maxsize=64)(self._count_prompt)
        if all(mask):  # "a" became nothing at all: count what is added around nothing
            self._prefix, self._suffix = min(1, len(mask)), max(0, len(mask) - 1)
        self._around = (
            inner.encode("a").ids[: self._prefix],
            inner.encode("a").ids[len(mask) - self._suffix :],
        )
        self._known = KnownWords(inner) if not all(mask) and splits_at_spaces(inner) else None

    @classmethod
    def open(cls, checkpoint: Checkpoint) -> Tokenizer:
        """The tokenizer of a checkpoint folder.

        Raises:
            CheckpointError: there is no tokenizer, or it is damaged, or needs embeddings that are not there.
            MissingExtraError: only a SentencePiece or vocabulary file is there, and transformers is not; or
                NLTK is not, which a PhraseTokenizer needs.
        """
        if checkpoint.tokenizer_file is not None and checkpoint.tokenizer_file.name in (WORDS_FILE, BAG_FILE):
            from tercet.text.words import WordTokenizer  # built on this class

            return WordTokenizer.read(checkpoint.tokenizer_file, int(checkpoint.config["vocab_size"]))
        if checkpoint.tokenizer_file is not None and checkpoint.tokenizer_file.name == PHRASES_FILE:
            from tercet.text.phrases import PhraseTokenizer  # built on this class, too

            return PhraseTokenizer.read(checkpoint.tokenizer_file, int(checkpoint.config["vocab_size"]))
        inner = _read(checkpoint)
        if not checkpoint.special_tokens:
            inner.post_processor = None  # it does nothing but put them there
        specials = frozenset(
            token_id
            for token in _special_tokens(checkpoint.tokenizer_config, checkpoint.folder)
            if (token_id := inner.token_to_id(token)) is not None
        )
        tokenizer = cls(inner, special_ids=specials, lowercase=checkpoint.lowercase)
        rows = checkpoint.config.get("vocab_size")
        if isinstance(rows, int) and tokenizer.vocabulary_size > rows:
            beyond = sorted((i, t) for t, i in inner.get_vocab(with_added_tokens=True).items() if i >= rows)
            if beyond:
                raise CheckpointError(
                    f"{checkpoint.folder}: the tokenizer has tokens up to id {beyond[-1][0]} "
                    f"({beyond[-1][1]!r}), the model has {rows:,} embeddings. The tokenizer belongs to "
                    "another model, or tokens were added without resizing the embeddings; put the right "
                    "tokenizer.json into the folder."
                )
        return tokenizer

    @property
    def num_special_tokens(self) -> int:
        """Special tokens that are added around one text."""
        return self._prefix + self._suffix

    @property
    def num_leading(self) -> int:
        """Special tokens that stand before a text."""
        return self._prefix

    def encode(self, texts: Sequence[str], *, max_length: int, prompt: str = "") -> Encoded:
        """The token ids of each text behind the prompt, special tokens included, cut to `max_length`.

        The end of a long text is cut and the special tokens around it are kept, as the peers do.

        Raises:
            InputError: `max_length` leaves no room for a token, or a text is not valid Unicode.
        """
        if max_length <= self.num_special_tokens:
            raise InputError(
                f"max_length={max_length} leaves no room for text: {self.num_special_tokens} special tokens "
                f"are added. Pass at least {self.num_special_tokens + 1}."
            )
        whole = [prompt + text for text in texts] if prompt else list(texts)
        if self._lowercase:
            whole = [text.lower() for text in whole]
        # Of most texts nothing is known before they are tokenised; of a huge one only its beginning is.
        beginnings = {
            index: short
            for index, text in enumerate(whole)
            if (short := self._beginning(text, max_length)) is not None
        }
        all_ids = self._ids(
            [beginnings.get(i, text) for i, text in enumerate(whole)] if beginnings else whole
        )
        for index in list(beginnings):
            if len(all_ids[index]) < max_length + 2:
                # The beginning did not fill the limit after all.
                [all_ids[index]] = self._ids([whole[index]])
                del beginnings[index]
        truncated = [index in beginnings or len(ids) > max_length for index, ids in enumerate(all_ids)]
        for index, cut in enumerate(truncated):
            if cut:
                ids = all_ids[index]
                all_ids[index] = ids[: max_length - self._suffix] + ids[len(ids) - self._suffix :]
        return Encoded(all_ids, truncated, min(self._prompt_tokens(prompt), max_length) if prompt else 0)

    def bare(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text whole, without special tokens.

        Raises:
            InputError: a text is not valid Unicode.
        """
        return self._ids([text.lower() for text in texts] if self._lowercase else list(texts), special=False)

    def pair(self, first: str, second: str) -> tokenizers.Encoding:
        """Two texts as the checkpoint joins them, with special tokens around and between."""
        return self._inner.encode(first, second)

    def id_to_token(self, token_id: int) -> str:
        """The token as the vocabulary spells it; "<id 7>" of an id that has none."""
        token = self._inner.id_to_token(token_id)
        return f"<id {token_id}>" if token is None else token

    def token_to_id(self, token: str) -> int | None:
        """The id of a token, None of an unknown one."""
        return self._inner.token_to_id(token)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return self._inner.decode(list(ids), skip_special_tokens=True)

    def to_json(self) -> str:
        """The whole tokenizer as tokenizer.json has it, without truncation and padding."""
        return self._inner.to_str()

    def _ids(self, texts: list[str], *, special: bool = True) -> list[list[int]]:
        try:
            if self._known is not None:
                known = self._known.encode(texts, *(self._around if special else ([], [])))
                if known is not None:
                    return known
            found = self._inner.encode_batch_fast(texts, add_special_tokens=special)
            return [encoding.ids for encoding in found]
        except (TypeError, UnicodeEncodeError):
            for index, text in enumerate(texts):
                try:
                    text.encode()
                except UnicodeEncodeError as error:
                    raise InputError(
                        f"text {index} of the batch is not valid Unicode: {error}. "
                        "Read the file with the right encoding, or with errors='replace'."
                    ) from None
            raise

    def _beginning(self, text: str, max_length: int) -> str | None:
        """The beginning of a huge text, cut at white space: all that can survive truncation; else None."""
        end = _CHARACTERS_PER_TOKEN * max_length
        # Without a pre-tokenizer a token may reach across white space: a cut could change the ids before it.
        if len(text) <= 2 * end + _WHITESPACE_WINDOW or self._inner.pre_tokenizer is None:
            return None
        for position in range(end, end + _WHITESPACE_WINDOW):
            if text[position].isspace() and not text[position - 1].isspace():
                return text[:position]
        return None

    def _count_prompt(self, prompt: str) -> int:
        """Leading tokens that a prompt takes, those before it included (as sentence-transformers counts)."""
        [ids] = self._ids([prompt.lower() if self._lowercase else prompt])
        return len(ids) - self._suffix


def _leading_ones(mask: list[int]) -> int:
    return next((i for i, value in enumerate(mask) if not value), len(mask))


def _read(checkpoint: Checkpoint) -> tokenizers.Tokenizer:
    """tokenizer.json, or what transformers makes of an older file."""
    path = checkpoint.tokenizer_file
    if path is None:
        return _convert(checkpoint)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: could not be read: {error}. Fetch the model again.") from None
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower, whatever is damaged
        raise CheckpointError(
            f"{path}: is not a tokenizer that the installed tokenizers {tokenizers.__version__} can read: "
            f"{error}. Fetch the file again, or update with: pip install -U tokenizers"
        ) from None


def _convert(checkpoint: Checkpoint) -> tokenizers.Tokenizer:
    folder = checkpoint.folder
    found = [name for name in _CONVERTIBLE if (folder / name).is_file()]
    if not found:
        raise CheckpointError(
            f"{folder}: there is no tokenizer (looked for tokenizer.json, {', '.join(_CONVERTIBLE)}). "
            "Copy the files of the tokenizer that the model was trained with into the folder."
        )
    transformers = require(
        "transformers",
        extra="transformers",
        purpose=f"{folder} has no tokenizer.json, and converting {found[0]} to one",
    )
    try:
        fast = transformers.AutoTokenizer.from_pretrained(
            str(folder), use_fast=True, local_files_only=True, trust_remote_code=False
        )
        return tokenizers.Tokenizer.from_str(fast.backend_tokenizer.to_str())
    except (ValueError, OSError, ImportError, AttributeError, KeyError) as error:
        raise CheckpointError(
            f"{folder}: {found[0]} could not be converted to tokenizer.json: {error}. "
            "Save the folder once with transformers' AutoTokenizer(use_fast=True).save_pretrained."
        ) from None


def special_token(config: Mapping[str, Any], folder: Path, role: str) -> str | None:
    """How a special token is spelled, by tokenizer_config.json or special_tokens_map.json; None of none.

    Args:
        config: tokenizer_config.json.
        folder: where the other file may be.
        role: "mask_token", "cls_token".
    """
    return next(iter(_special_tokens(config, folder, (role,))), None)


def _special_tokens(
    config: Mapping[str, Any], folder: Path, roles: Sequence[str] = _SPECIAL_ROLES
) -> list[str]:
    """How each special token is spelled, by tokenizer_config.json or special_tokens_map.json."""
    sources: list[Mapping[str, Any]] = [config]
    path = folder / "special_tokens_map.json"
    if path.is_file() and path.stat().st_size < 1 << 20:
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            old = None
        if isinstance(old, dict):
            sources.append(old)
    found = []
    for role in roles:
        for source in sources:
            token = source.get(role)
            spelling = token.get("content") if isinstance(token, dict) else token
            if isinstance(spelling, str):
                found.append(spelling)
                break
    return found
