"""What stands before the texts of training data where their own line does not say it."""

from __future__ import annotations

__all__ = ["prompted"]

from collections.abc import Callable

from tercet.checkpoint.layout import Checkpoint
from tercet.embedder.options import Asked, saved_prompt
from tercet.training.data.example import Example


def prompted(checkpoint: Checkpoint, prompt: str | None) -> Callable[[Example], str]:
    """Makes an example's query with what belongs before it: its own prompt, else `prompt`, or the model's."""
    if prompt is None:
        asked = saved_prompt(Asked(), "query", checkpoint)
        name = asked.prompt_name or checkpoint.default_prompt_name
        prompt = "" if name is None else checkpoint.prompts[name]
    before = prompt
    return lambda example: (before if example.prompt is None else example.prompt) + example.query
