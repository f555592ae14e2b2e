"""Texts of a model of late interaction -> token ids: with markers, and queries expanded."""

from __future__ import annotations

__all__ = ["TASKS", "LateEncoder"]

import logging
from collections.abc import Sequence
from dataclasses import replace

from tercet.checkpoint.late_interaction import Expansion
from tercet.checkpoint.late_modules import LATE_MASK, TOKEN_POOLING
from tercet.checkpoint.layout import Checkpoint
from tercet.errors import CheckpointError, InputError, nearest
from tercet.text.tokenizer import Encoded, Tokenizer, special_token

logger = logging.getLogger(__name__)

TASKS = ("query", "document")


class LateEncoder:
    """A checkpoint's tokenizer, with what its late interaction adds to queries and to documents."""

    def __init__(self, tokenizer: Tokenizer, checkpoint: Checkpoint) -> None:
        late, spec = checkpoint.late, checkpoint.module(LATE_MASK)
        assert late is not None
        self._tokenizer = tokenizer
        self._model = checkpoint.name
        self._expansion = late.expansion
        self._limits = late
        self._expands_by = (
            0 if late.expansion is None else _expansion_id(tokenizer, checkpoint, late.expansion)
        )
        # A marker that is a token is inserted; another is text before the text.
        self._marker_ids: dict[str, int] = {}
        self._marker_texts: dict[str, str] = {}
        for task, marker in late.markers.items():
            first = next(iter(marker.split()), marker)
            spelled = next(
                (token for token in (marker, first) if tokenizer.token_to_id(token) is not None), ""
            )
            if (found := tokenizer.token_to_id(spelled) if spelled else None) is not None:
                self._marker_ids[task] = found
            text = marker[len(spelled) :]
            self._marker_texts[task] = text if text.strip() else ""
        words = () if spec is None else spec.config["skiplist_words"]
        self._skipped_in = () if spec is None else spec.config["skiplist_tasks"]
        ids = {word: tokenizer.token_to_id(word) for word in words}
        self._skipped = tuple(found for found in ids.values() if found is not None)
        if unknown := [word for word, found in ids.items() if found is None]:
            logger.info("%s: skiplist words without a token of their own: %s", self._model, " ".join(unknown))
        self._kept: tuple[int, ...] | None = None if spec is None else spec.config["keep_only_token_ids"]
        pooling = checkpoint.module(TOKEN_POOLING)
        self._pooled_in = () if pooling is None else pooling.config["tasks"]

    def check(self, task: str | None) -> None:
        """An error for a task of which nothing is known."""
        if task is not None and task not in TASKS:
            close = nearest(task, TASKS) if isinstance(task, str) else ""
            raise InputError(
                f"task={task!r}: {self._model} embeds 'query' and 'document'. {close} Use encode_query or "
                "encode_document."
            )

    def limit(self, task: str | None, usual: int) -> int:
        """Most tokens of a text for a task, where nothing else is asked for."""
        return self._limits.limit(task, usual)

    def scored(self, task: str | None) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        """Ids of tokens without a vector, and ids of the only ones with one (None for all)."""
        dropped = self._skipped if (task or "document") in self._skipped_in else ()
        return dropped, None if task == "query" else self._kept

    def pools(self, task: str | None) -> bool:
        """Whether the model makes fewer vectors of a text for a task; without one it counts as a document."""
        return (task or "document") in self._pooled_in

    def encode(self, texts: Sequence[str], *, task: str | None, max_length: int, prompt: str = "") -> Encoded:
        """The token ids of each text for a task: marker, prompt and text, then what expands a query.

        Args:
            texts: the texts.
            task: "query", "document", or None for the texts alone.
            max_length: most tokens of a text, special tokens and the marker included; queries are expanded
                beyond it.
            prompt: before each text, behind the marker.

        Raises:
            InputError: `max_length` leaves no room for a token, or a text is not valid Unicode.
        """
        key = task or ""
        marker = self._marker_ids.get(key)
        expansion = self._expansion if task == "query" else None
        if expansion is not None and expansion.fixed:
            max_length = min(max_length, expansion.length)
        found = self._tokenizer.encode(
            texts,
            max_length=max_length - (marker is not None),
            prompt=self._marker_texts.get(key, "") + prompt,
        )
        ids = found.ids
        if marker is not None:
            before = self._tokenizer.num_leading
            ids = [[*text[:before], marker, *text[before:]] for text in ids]
        attended = None
        if expansion is not None:
            lengths = [len(text) for text in ids]
            ids = [text + [self._expands_by] * (expansion.length - len(text)) for text in ids]
            if not expansion.attend:
                # A query of no token at all has nothing else to look at.
                attended = [length or expansion.length for length in lengths]
        return replace(found, ids=ids, attended=attended)


def _expansion_id(tokenizer: Tokenizer, checkpoint: Checkpoint, expansion: Expansion) -> int:
    """The id of the token that lengthens queries: its own, the tokenizer's mask, or what ends a text."""
    spelled = expansion.token
    if spelled is None:
        config, folder = checkpoint.tokenizer_config, checkpoint.folder / checkpoint.encoder_path
        roles = ("mask_token", "eos_token")
        spelled = next((token for role in roles if (token := special_token(config, folder, role))), "[MASK]")
    found = tokenizer.token_to_id(spelled)
    if found is None:
        raise CheckpointError(
            f"{checkpoint.folder}: queries are expanded by {spelled!r}, which the tokenizer does not have. "
            "Put the tokenizer.json and tokenizer_config.json that were saved with the model into the folder."
        )
    return found
