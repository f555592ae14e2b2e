"""What stands before the texts of training data where their own line does not say it."""

from __future__ import annotations

__all__ = ["prompted", "prompted_batch"]

from collections.abc import Callable, Sequence
from dataclasses import replace

from tercet.batch import Batch
from tercet.checkpoint.layout import Checkpoint
from tercet.embedder.options import Asked, saved_prompt
from tercet.text.tokenizer import Tokenizer
from tercet.training.data.example import Example


def prompted(checkpoint: Checkpoint, prompt: str | None) -> Callable[[Example], str]:
    """Makes an example's query with what belongs before it: its own prompt, else `prompt`, or the model's."""
    if prompt is None:
        asked = saved_prompt(Asked(), "query", checkpoint)
        name = asked.prompt_name or checkpoint.default_prompt_name
        prompt = "" if name is None else checkpoint.prompts[name]
    before = prompt
    return lambda example: (before if example.prompt is None else example.prompt) + example.query


def prompted_batch(
    tokenizer: Tokenizer, texts: Sequence[str], prompts: Sequence[str], max_length: int
) -> Batch:
    """Each text behind its own prompt, on the CPU, with what a pooling needs that leaves prompts out."""
    whole = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
    batch = Batch.from_ids(tokenizer.encode(whole, max_length=max_length).ids)
    # Counted as an embedder counts the one prompt of its call.
    counts = {
        prompt: tokenizer.encode([], max_length=max_length, prompt=prompt).prompt_tokens
        for prompt in set(prompts)
    }
    if not any(counts.values()):
        return batch
    return replace(batch, prompt_tokens=tuple(counts[prompt] for prompt in prompts))
