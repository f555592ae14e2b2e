"""The pairs of a call: checked when they are reached, and read by windows."""

from __future__ import annotations

__all__ = ["Pair", "windows"]

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any, TypeAlias

from tercet.embedder.texts import excerpt
from tercet.errors import InputError, kind_of

Pair: TypeAlias = tuple[str, str]

_WINDOW_PAIRS = 512
_WINDOW_CHARACTERS = 1 << 22


def windows(pairs: Iterable[Any]) -> Iterator[list[Pair]]:
    """Lists of consecutive pairs, bounded in number and in characters; a pair of strings alone is one pair.

    Raises:
        InputError: now, for what holds no pairs in order; later, for one that is none, with its number.
    """
    if isinstance(pairs, (str, bytes, bytearray, memoryview, Set, Mapping)):
        raise InputError(
            f"pairs is {kind_of(pairs)}. Pass a list of (query, document), or rank(query, documents)."
        )
    if isinstance(pairs, (list, tuple)) and len(pairs) == 2 and all(isinstance(one, str) for one in pairs):
        pairs = [pairs]
    try:
        iterator = iter(pairs)
    except TypeError:
        raise InputError(
            f"pairs is of type {type(pairs).__name__}. Pass a list of (query, document)."
        ) from None
    return _windows(iterator)


def _windows(pairs: Iterator[Any]) -> Iterator[list[Pair]]:
    window: list[Pair] = []
    characters = 0
    for number, pair in enumerate(pairs):
        checked = _checked(pair, number)
        window.append(checked)
        characters += len(checked[0]) + len(checked[1])
        if len(window) >= _WINDOW_PAIRS or characters >= _WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def _checked(pair: Any, number: int) -> Pair:
    if isinstance(pair, (str, bytes, Set, Mapping)) or not hasattr(pair, "__len__") or len(pair) != 2:
        shape = f"has {len(pair)} parts" if isinstance(pair, (list, tuple)) else f"is {excerpt(str(pair))}"
        raise InputError(f"pair {number} {shape}; it must be two strings: (query, document).")
    query, document = pair
    for what, text in (("query", query), ("document", document)):
        if not isinstance(text, str):
            raise InputError(
                f"pair {number}: the {what} is of type {type(text).__name__} ({excerpt(repr(text))}), it "
                "must be a string. Drop missing values, or convert with str()."
            )
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"pair {number}: the {what} is not valid Unicode: {error}. "
                    "Read the file with the right encoding, or with errors='replace'."
                ) from None
    return str(query), str(document)
