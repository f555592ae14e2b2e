"""Every error that Tercet raises on purpose.

    TercetError
    ├── InputError            a text, option or file that the caller gave (also a ValueError)
    │   └── UnknownNameError  a name that is not there; the message gives the nearest (also a TypeError)
    ├── AbsentError           what a drop-in class of tercet.compat does not have (also an AttributeError)
    ├── CheckpointError       what is on disk is missing, damaged, or does not fit together
    │   └── SourceError       a model folder or hub id could not be found or fetched
    ├── PrecisionError        a dtype or plan that cannot be honoured, with the reason and the mend
    ├── NonFiniteError        a vector that is not finite even in float32; names the text
    ├── OutputError           results could not be written; nothing half-written is left
    └── MissingExtraError     an optional library is absent; has the install command (also an ImportError)

A message says what happened, where, and how to mend it. The command line prints it without a traceback and
exits with 2.
"""

__all__ = [
    "AbsentError",
    "CheckpointError",
    "InputError",
    "MissingExtraError",
    "NonFiniteError",
    "OutputError",
    "PrecisionError",
    "SourceError",
    "TercetError",
    "UnknownNameError",
    "kind_of",
    "nearest",
]

from collections.abc import Iterable
from difflib import get_close_matches


class TercetError(Exception):
    """Any error that Tercet raises on purpose."""


class InputError(TercetError, ValueError):
    """A text, option or file of the caller that cannot be used."""


class UnknownNameError(InputError, TypeError):
    """A name that is not there."""


class AbsentError(TercetError, AttributeError):
    """An attribute of another library's class that its drop-in class does not have."""


class CheckpointError(TercetError):
    """A checkpoint that is missing a part, damaged, or does not fit together."""


class SourceError(CheckpointError):
    """A model folder or hub id that could not be found or fetched."""


class PrecisionError(TercetError):
    """A dtype or plan that cannot be honoured."""


class NonFiniteError(TercetError):
    """A vector that is not finite even when computed in float32."""


class OutputError(TercetError):
    """Results that could not be written."""


class MissingExtraError(TercetError, ImportError):
    """An optional library that is not installed."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the nearest known one, and all of them."""
    names = sorted(set(known))
    close = get_close_matches(name, names, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(names) if names else 'none'}."


def kind_of(value: object) -> str:
    """The name of a value's type behind its article, for an error message: "an int", "a list"."""
    name = type(value).__name__
    return f"{'an' if name.lower().startswith(('a', 'e', 'i', 'o', 'nd')) else 'a'} {name}"
