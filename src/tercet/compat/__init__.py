"""Drop-in classes: code written for another library runs with one changed import line (docs/migration.md)."""

from __future__ import annotations

__all__ = ["BGEM3FlagModel"]

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tercet.compat.bge_m3 import BGEM3FlagModel

# Read when first asked for: importing this package alone imports neither torch nor NumPy.
_HOMES = {
    "BGEM3FlagModel": "tercet.compat.bge_m3",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'tercet.compat' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
