"""Pairs of query and document -> token ids, cut as one of the peers cuts them."""

from __future__ import annotations

__all__ = ["TRUNCATIONS", "EncodedPairs", "PairEncoder", "Truncation", "takes_types"]

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import Literal

import torch

from tercet.batch import Batch
from tercet.checkpoint.contents import Checkpoint
from tercet.errors import CheckpointError, InputError
from tercet.text.tokenizer import Tokenizer

Truncation = Literal["longest_first", "only_second"]
TRUNCATIONS: tuple[Truncation, ...] = ("longest_first", "only_second")


@dataclass(frozen=True, slots=True)
class EncodedPairs:
    """Several pairs as token ids.

    Attributes:
        ids: token ids of each pair, special tokens included.
        type_ids: of each of those tokens, as BERT tells query and document apart.
        truncated: whether something of each pair was cut.
    """

    ids: list[list[int]]
    type_ids: list[list[int]]
    truncated: list[bool]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each pair."""
        return [len(ids) for ids in self.ids]

    def batch(self, pairs: slice, *, types: bool) -> Batch:
        """Some of the pairs, on the CPU; with `types` the encoder is told query and document apart."""
        made = Batch.from_ids(self.ids[pairs])
        if not types:
            return made
        found = list(chain.from_iterable(self.type_ids[pairs]))
        return replace(made, token_type_ids=torch.tensor(found, dtype=torch.int64))


@dataclass(frozen=True, slots=True)
class _Segment:
    """Special tokens of a pair, or the place of one of its texts (0 or 1)."""

    text: int | None
    ids: list[int]
    type_ids: list[int]


class PairEncoder:
    """How a checkpoint joins two texts: read once from its tokenizer, then done here.

    A text that comes in many pairs, as a query does, is tokenised once for all of them.

    Attributes:
        num_special_tokens: of a pair.
        has_types: whether some token has another type than 0.
    """

    def __init__(self, tokenizer: Tokenizer, where: str) -> None:
        """Finds out where special tokens stand.

        Args:
            tokenizer: of the checkpoint.
            where: the checkpoint's folder, for messages.

        Raises:
            CheckpointError: the tokenizer does not put the two texts one behind the other.
        """
        self._tokenizer = tokenizer
        probe = tokenizer.pair("a", "a")
        marked = zip(probe.sequence_ids, probe.ids, probe.type_ids, strict=True)
        self._segments = []
        for text, tokens in groupby(marked, key=lambda token: token[0]):
            rows = list(tokens)
            self._segments.append(_Segment(text, [row[1] for row in rows], [row[2] for row in rows]))
        if [segment.text for segment in self._segments if segment.text is not None] != [0, 1]:
            raise CheckpointError(
                f"{where}: the tokenizer does not put a query and a document one behind the other, so it "
                "is none of a reranker. Put the tokenizer.json that was saved with the model into the folder."
            )
        self.num_special_tokens = sum(len(part.ids) for part in self._segments if part.text is None)
        self.has_types = any(any(part.type_ids) for part in self._segments)

    def encode(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        max_length: int,
        truncation: Truncation = "longest_first",
        query_max_length: int | None = None,
        prompt: str = "",
    ) -> EncodedPairs:
        """The token ids of each pair, special tokens included, cut to `max_length`.

        Args:
            pairs: query and document each.
            max_length: most tokens of a pair.
            truncation: "longest_first" takes tokens from the end of the longer text until both are of one
                length, and then from both (sentence-transformers); "only_second" cuts the query to
                `query_max_length` first, and then the document alone (FlagEmbedding).
            query_max_length: with "only_second", most tokens of a query; None for 3/4 of `max_length`.
            prompt: before each query.

        Raises:
            InputError: `max_length` leaves no room for a token of each text.
        """
        room = max_length - self.num_special_tokens
        if room < 2:
            raise InputError(
                f"max_length={max_length} leaves no room for a query and a document: "
                f"{self.num_special_tokens} special tokens are added. Pass at least "
                f"{self.num_special_tokens + 2}."
            )
        asked = [prompt + query for query, _ in pairs]
        texts = list(dict.fromkeys([*asked, *(document for _, document in pairs)]))
        tokens = dict(zip(texts, self._tokenizer.bare(texts), strict=True))
        encoded = EncodedPairs([], [], [])
        most = max_length * 3 // 4 if query_max_length is None else query_max_length
        for query, (_, document) in zip(asked, pairs, strict=True):
            whole = tokens[query], tokens[document]
            first, second = len(whole[0]), len(whole[1])
            if truncation == "longest_first":
                kept = _longest_first(first, second, room)
            else:
                first = min(first, most, room)
                kept = first, min(second, room - first)
            ids: list[int] = []
            type_ids: list[int] = []
            for segment in self._segments:
                if segment.text is None:
                    ids += segment.ids
                    type_ids += segment.type_ids
                else:
                    count = kept[segment.text]
                    ids += whole[segment.text][:count]
                    type_ids += segment.type_ids[:1] * count
            encoded.ids.append(ids)
            encoded.type_ids.append(type_ids)
            encoded.truncated.append(kept != (len(whole[0]), len(whole[1])))
        return encoded


def takes_types(checkpoint: Checkpoint) -> bool:
    """Whether the encoder tells query and document apart, and the tokenizer's settings let it."""
    rows = checkpoint.config.get("type_vocab_size", 1)
    settings = checkpoint.tokenizer_config
    inputs = settings.get("model_input_names")
    if not isinstance(inputs, list):
        # Of a tokenizer without a class of its own, transformers 4 passed types on, and 5 does not.
        inputs = [] if settings.get("tokenizer_class") == "TokenizersBackend" else ["token_type_ids"]
    return isinstance(rows, int) and rows > 1 and "token_type_ids" in inputs


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Tokens that are left of two texts, as the library tokenizers leaves them."""
    if first + second <= room:
        return first, second
    short, long = sorted((first, second))
    if 2 * short <= room:
        long = room - short
    else:
        # The odd token stays with the longer text; of two of one length, with the second.
        short, long = room // 2, room - room // 2
    return (long, short) if first > second else (short, long)
