"""Counts what goes through a transformers encoder, padding included: one hook, removed after use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def counted(encoder: Any) -> Iterator[dict[str, int]]:
    """Around a call: {"computed": the tokens that the encoder was given, padding too}.

    Args:
        encoder: the torch module that is called with `input_ids`.
    """
    found = {"computed": 0}

    def hook(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        ids = keywords["input_ids"] if "input_ids" in keywords else arguments[0]
        found["computed"] += ids.numel()

    handle = encoder.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()
