"""The texts of a call: checked when they are reached, and read by windows."""

from __future__ import annotations

__all__ = ["checked", "excerpt", "one_window", "windows"]

from collections.abc import Iterable, Iterator, Mapping, Set

from tercet.errors import InputError, kind_of

# Texts are read and tokenised by windows, so that a corpus is never held whole.
_WINDOW_TEXTS = 512
_WINDOW_CHARACTERS = 1 << 20


def checked(texts: str | Iterable[str]) -> Iterator[str]:
    """The texts, each of them checked to be a string of valid Unicode when it is reached.

    Raises:
        InputError: now, for what holds no texts in order; later, for a text that is none.
    """
    if isinstance(texts, str):
        texts = (texts,)
    if isinstance(texts, (bytes, bytearray, memoryview)):
        raise InputError(f"texts is of type {type(texts).__name__}. Decode it first, as in texts.decode().")
    if isinstance(texts, (Set, Mapping)):
        raise InputError(
            f"texts is {kind_of(texts)}: which vector belongs to which text would be anyone's guess. "
            "Pass a list of strings."
        )
    try:
        iterator = iter(texts)
    except TypeError:
        raise InputError(
            f"texts is of type {type(texts).__name__}. Pass a list of strings, or one string."
        ) from None
    return _each_checked(iterator)


def one_window(texts: str | Iterable[str]) -> list[str] | None:
    """Texts that are there already and fit one window, checked; None for all others, which nothing reads."""
    if isinstance(texts, str):
        return list(_each_checked((texts,)))
    if not isinstance(texts, (list, tuple)) or len(texts) > _WINDOW_TEXTS:
        return None
    found = list(_each_checked(texts))
    return found if sum(map(len, found)) <= _WINDOW_CHARACTERS else None


def windows(texts: Iterator[str]) -> Iterator[list[str]]:
    """Lists of consecutive texts, bounded in number and in characters."""
    for text in texts:
        window, characters = [text], len(text)
        while len(window) < _WINDOW_TEXTS and characters < _WINDOW_CHARACTERS:
            following = next(texts, None)
            if following is None:
                break
            window.append(following)
            characters += len(following)
        yield window


def excerpt(text: str, length: int = 40) -> str:
    """The beginning of a text, for a message."""
    return repr(text) if len(text) <= length else repr(text[:length]) + "…"


def _each_checked(texts: Iterable[str]) -> Iterator[str]:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(
                f"text {index} is of type {type(text).__name__} ({excerpt(repr(text))}), it must be a "
                "string. Drop missing values, or convert with str()."
            )
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"text {index} is not valid Unicode: {error}. "
                    "Read the file with the right encoding, or with errors='replace'."
                ) from None
        yield str(text)
