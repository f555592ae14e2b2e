"""A small YAML file as plain values: bounded, and keys that come twice refused."""

from __future__ import annotations

__all__ = ["read_yaml"]

from pathlib import Path
from typing import Any

from tercet.errors import InputError
from tercet.extras import require

_MAX_BYTES = 1 << 20  # recipes are pages, not data


def read_yaml(path: Path, *, purpose: str) -> Any:
    """What the file holds; no object is made but strings, numbers, lists and mappings.

    Args:
        path: the file.
        purpose: what needs it, for the message where PyYAML is absent.

    Raises:
        InputError: it is not there, larger than a mebibyte, not UTF-8, not YAML, or has a key twice.
    """
    yaml = require("yaml", extra="train", purpose=purpose)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if len(data) > _MAX_BYTES:
        raise InputError(f"{path}: is larger than 1 MiB, which no recipe is. Give the recipe, not the data.")
    try:
        text = data.decode("utf-8")
        _refuse_twins(yaml, yaml.compose(text, Loader=yaml.SafeLoader), path, set())
        return yaml.safe_load(text)
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8. Save it as UTF-8.") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except (RecursionError, ValueError, TypeError) as error:  # nested too deep, or no such date
        raise InputError(f"{path}: not usable YAML ({error}).") from error


def _refuse_twins(yaml: Any, node: Any, path: Path, seen: set[int]) -> None:
    """An error where a mapping has a key twice, of which YAML's loader would take the last."""
    if id(node) in seen:
        return
    seen.add(id(node))  # an alias is the same node: each is looked at once, however often it is named
    if isinstance(node, yaml.MappingNode):
        known = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in known:
                    raise InputError(f"{path}, line {key.start_mark.line + 1}: a second key {key.value!r}.")
                known.add(key.value)
            _refuse_twins(yaml, value, path, seen)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_twins(yaml, value, path, seen)
