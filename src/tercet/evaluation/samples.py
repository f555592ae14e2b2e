"""Texts as batches, for those who look inside an encoder."""

from __future__ import annotations

__all__ = ["sample_batches"]

from collections.abc import Sequence

from tercet.batch import Batch
from tercet.checkpoint.layout import Checkpoint
from tercet.errors import InputError
from tercet.text.pack import pack
from tercet.text.tokenizer import Tokenizer


def sample_batches(
    checkpoint: Checkpoint,
    texts: Sequence[str],
    *,
    prompt: str = "",
    max_length: int | None = None,
    token_budget: int = 4096,
) -> list[Batch]:
    """The texts in their order, as batches of about `token_budget` tokens on the CPU.

    Args:
        checkpoint: whose tokenizer to take.
        texts: a sample; their token ids are held all at once.
        prompt: put before each text.
        max_length: most tokens of a text; never more than the model takes.
        token_budget: most tokens of a batch with more than one text.

    Raises:
        InputError: there are no texts.
    """
    if not texts:
        raise InputError("There are no texts to look at. Give a sample of some dozens.")
    limit = checkpoint.max_length if max_length is None else min(max_length, checkpoint.max_length)
    ids = Tokenizer.open(checkpoint).encode(texts, max_length=limit, prompt=prompt).ids
    return [Batch.from_ids(ids[part]) for part in pack([len(text) for text in ids], token_budget)]
