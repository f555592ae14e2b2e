"""Keyword arguments that do not exist are refused with the nearest name, never swallowed."""

from __future__ import annotations

__all__ = ["refuse_unknown_keywords"]

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tercet.errors import UnknownNameError, nearest

P = ParamSpec("P")
R = TypeVar("R")


def refuse_unknown_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with a TypeError for an unknown keyword that names the nearest one."""
    known = [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for keyword in kwargs:
            if keyword not in known:
                raise UnknownNameError(
                    f"{function.__qualname__}() has no keyword {keyword!r}. {nearest(keyword, known)}"
                )
        return function(*args, **kwargs)

    return checked
