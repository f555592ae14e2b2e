"""What a file may hold, said once by a frozen dataclass: its fields, their types and limits."""

from __future__ import annotations

__all__ = ["check_settings", "limits", "read_settings"]

import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from math import isfinite
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tercet.errors import InputError, UnknownNameError, nearest

T = TypeVar("T")
# YAML 1.1 takes 1e-5 for a string, since there is no point in it.
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class _Limits:
    least: float | None
    above: float | None
    most: float | None


def limits(
    default: Any = MISSING,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
) -> Any:
    """A field of a settings class whose number is bounded; `above` excludes the bound itself."""
    return field(default=default, metadata={"limits": _Limits(least, above, most)})


def read_settings(kind: type[T], values: object, where: str) -> T:
    """The settings that a mapping of plain values stands for.

    Args:
        kind: a frozen dataclass that calls `check_settings` when it is made.
        values: what a YAML or JSON file held.
        where: the file, for messages.

    Raises:
        UnknownNameError: a key that is not a field, with the nearest one.
        InputError: a key is missing, or its value has the wrong type or is out of its limits. Both name the
            file and the key.
    """
    try:
        found: T = _made(kind, values, "")
    except UnknownNameError as error:
        raise UnknownNameError(f"{where}: {error}") from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return found


def check_settings(settings: Any) -> None:
    """An error that names the field whose value has the wrong type or is out of its limits."""
    hints = _hints(type(settings))
    for one in fields(settings):
        value = getattr(settings, one.name)
        if not _fits(value, hints[one.name]):
            raise InputError(f"{one.name} is {_shown(value)}; it must be {_described(hints[one.name])}.")
        numbers = value if isinstance(value, tuple) else (value,)
        for number in numbers:
            if isinstance(number, int | float) and not isinstance(number, bool):
                _check_limits(one.name, number, one.metadata.get("limits"))


def _check_limits(name: str, number: float, bounds: _Limits | None) -> None:
    if not isfinite(number):
        raise InputError(f"{name} is {number}; it must be a finite number.")
    if bounds is None:
        return
    if bounds.least is not None and number < bounds.least:
        raise InputError(f"{name} is {number:g}; it must be {bounds.least:g} or more.")
    if bounds.above is not None and number <= bounds.above:
        raise InputError(f"{name} is {number:g}; it must be more than {bounds.above:g}.")
    if bounds.most is not None and number > bounds.most:
        raise InputError(f"{name} is {number:g}; it must be {bounds.most:g} or less.")


def _hints(kind: type[Any]) -> dict[str, Any]:
    found: dict[str, Any] = get_type_hints(kind)
    return found


def _made(kind: Any, values: object, path: str) -> Any:
    at = f"{path}: " if path else ""
    if not isinstance(values, Mapping):
        raise InputError(f"{at}{_shown(values)}, where keys and values are expected.")
    known = {one.name: one for one in fields(kind)}
    for key in values:
        if key not in known:
            raise UnknownNameError(f"{at}there is no key {key!r}. {nearest(str(key), known)}")
    for name, one in known.items():
        if name not in values and one.default is MISSING and one.default_factory is MISSING:
            raise InputError(f"{at}the key {name!r} is missing.")
    hints = _hints(kind)
    below = f"{path}." if path else ""
    given = {str(key): _value(value, hints[str(key)], f"{below}{key}") for key, value in values.items()}
    try:
        return kind(**given)
    except UnknownNameError:
        raise
    except InputError as error:
        raise InputError(f"{below}{error}") from None


def _value(value: object, hint: Any, path: str) -> Any:
    """The value in the form that its field has; what does not fit is left for the check."""
    if get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        [hint] = [one for one in get_args(hint) if one is not types.NoneType]
    if is_dataclass(hint):
        return _made(hint, value, path)
    if get_origin(hint) is tuple and isinstance(value, list):
        inner = get_args(hint)[0]
        return tuple(_value(one, inner, f"{path}[{number}]") for number, one in enumerate(value))
    if hint is float and isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    return value


def _fits(value: object, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if origin is Literal:
        return value in get_args(hint) and not isinstance(value, bool)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(one, get_args(hint)[0]) for one in value)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, int | float) if hint is float else isinstance(value, hint)


def _described(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if one is types.NoneType else _described(one) for one in get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if origin is tuple:
        return f"a list, each entry {_described(get_args(hint)[0])}"
    return _NAMES.get(hint, "keys and values")


def _shown(value: object) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
