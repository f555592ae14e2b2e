"""Values of a JSON file that a person may have edited, checked: an error names the file and the field."""

from __future__ import annotations

__all__ = ["checked_count", "checked_dtype", "checked_list", "checked_object", "checked_text"]

from typing import Any

from tercet.errors import PrecisionError, nearest
from tercet.precision.dtype import DType


def checked_object(value: object, keys: set[str], where: str) -> dict[str, Any]:
    """A JSON object with exactly these keys."""
    if not isinstance(value, dict):
        raise PrecisionError(
            f"{where}: must be an object with {', '.join(sorted(keys))}; found {type(value).__name__}."
        )
    for key in value:
        if key not in keys:
            raise PrecisionError(f"{where}: unknown key {key!r}. {nearest(str(key), keys)}")
    missing = sorted(keys - value.keys())
    if missing:
        raise PrecisionError(f"{where}: {', '.join(missing)} missing. Save the plan again with --save-plan.")
    return value


def checked_text(value: object, name: str, where: str) -> str:
    """Text."""
    if not isinstance(value, str):
        raise PrecisionError(f"{where}: {name} must be text, found {value!r}.")
    return value


def checked_count(value: object, name: str, where: str, *, at_least: int = 0) -> int:
    """A whole number, not below `at_least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise PrecisionError(f"{where}: {name} must be a whole number from {at_least} up, found {value!r}.")
    return value


def checked_list(value: object, name: str, where: str) -> list[Any]:
    """A list of anything."""
    if not isinstance(value, list):
        raise PrecisionError(f"{where}: {name} must be a list, found {value!r}.")
    return value


def checked_dtype(value: object, name: str, where: str) -> DType:
    """A number format by its name."""
    try:
        return DType.parse(checked_text(value, name, where))
    except PrecisionError as error:
        raise PrecisionError(f"{where}: {name}: {error}") from None
