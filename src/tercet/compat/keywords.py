"""Older names of keyword arguments, which the other library still takes."""

from __future__ import annotations

__all__ = ["older_keywords"]

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tercet.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")


def older_keywords(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator that takes keywords by older names too: `older_keywords(sentences="inputs")`.

    A keyword given by both names is an InputError: one of the two would be lost.
    """

    def renamed(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in kwargs.keys() & names.keys():
                new = names[old]
                if new in kwargs:
                    raise InputError(
                        f"{function.__qualname__}(): {old!r} is the older name of {new!r}, and both were "
                        f"given. Pass {new!r} alone."
                    )
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return called

    return renamed
