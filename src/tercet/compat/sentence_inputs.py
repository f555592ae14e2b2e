"""The inputs of sentence-transformers' `encode`: texts in the forms that it takes them in."""

from __future__ import annotations

__all__ = ["Texts", "as_texts"]

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from tercet.embedder.texts import checked, excerpt
from tercet.errors import InputError, UnknownNameError, kind_of, nearest

Text: TypeAlias = str | Mapping[str, str]
Texts: TypeAlias = Text | Iterable[Text] | np.ndarray


def as_texts(inputs: Texts) -> tuple[list[str], bool]:
    """The texts, and whether it was one alone, not in a list.

    A text may be a string or {"text": string}; several, any iterable that has an order.

    Raises:
        InputError: something else, or pairs and conversations, which are not embedded.
    """
    found: Any = inputs.tolist() if isinstance(inputs, np.ndarray) else inputs
    if isinstance(found, (str, Mapping)):
        return [_text(found, 0)], True
    checked(found)  # refuses what holds no texts in order
    return [_text(given, place) for place, given in enumerate(found)], False


def _text(given: object, place: int) -> str:
    if isinstance(given, Mapping):
        if set(given) == {"text"}:
            return _text(given["text"], place)
        if "role" in given and "content" in given:
            raise InputError(
                f"text {place} is a message with a role. Conversations are not embedded: pass the text alone."
            )
        raise UnknownNameError(
            f"text {place} is a dict with {', '.join(map(repr, given)) or 'nothing in it'}; it must "
            f"have the one key 'text'. {nearest(str(next(iter(given), '')), ('text',))}"
        )
    if isinstance(given, (list, tuple)):
        raise InputError(
            f"text {place} is {kind_of(given)} ({excerpt(repr(given))}). Pairs are not embedded: "
            "join their texts as the model was trained, or score them with a reranker."
        )
    if not isinstance(given, str):
        raise InputError(
            f"text {place} is of type {type(given).__name__} ({excerpt(repr(given))}), it must be a string. "
            "Drop missing values, or convert with str()."
        )
    return given
