"""Counts what goes through a transformers encoder, padding included: one hook, removed after use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def counted(encoder: Any) -> Iterator[dict[str, int]]:
    """Around a call: {"computed": the tokens that the encoder was given, padding too}.

    Args:
        encoder: of transformers. The hook is on its embeddings: sentence-transformers calls the encoder's
            forward itself, past its hooks.
    """
    found = {"computed": 0}

    def hook(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        ids = keywords["input_ids"] if "input_ids" in keywords else arguments[0]
        found["computed"] += ids.numel()

    handle = encoder.embeddings.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()
