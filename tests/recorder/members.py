"""The public members of the peers' classes and what each takes: plain enough to be kept as JSON."""

from __future__ import annotations

__all__ = ["CLASSES", "members", "takes"]

import inspect
from collections.abc import Callable

# library -> its classes that have drop-ins
CLASSES = {
    "FlagEmbedding": ("BGEM3FlagModel", "FlagAutoModel", "FlagAutoReranker", "FlagModel", "FlagReranker"),
    "sentence_transformers": ("CrossEncoder", "SentenceTransformer", "SparseEncoder"),
}


def members(model_class: type, library: str) -> dict[str, list[str] | str]:
    """Name -> what it takes, or "property", "property, set", "attribute"; of what the library itself defines.

    What torch.nn.Module and its kin define alone is left out.
    """
    found: dict[str, list[str] | str] = {}
    for name in dir(model_class):
        owner = next((one for one in model_class.__mro__ if name in vars(one)), None)
        if owner is None or owner.__module__.partition(".")[0] != library:
            continue
        if name.startswith("_") and name != "__init__":
            continue
        found[name] = takes(model_class, name)
    return found


def takes(model_class: type, name: str) -> list[str] | str:
    """What a member takes: "name" or "name=default", in order; "*" before what is taken by name alone."""
    value = inspect.getattr_static(model_class, name)
    if isinstance(value, property):
        return "property, set" if value.fset is not None else "property"
    if isinstance(value, type) or not isinstance(value, (staticmethod, classmethod, Callable)):
        return "attribute"
    signs: list[str] = []
    for one in inspect.signature(getattr(model_class, name)).parameters.values():
        if one.name in ("self", "cls"):
            continue
        if one.kind is one.KEYWORD_ONLY and "*" not in signs and not any(sign[0] == "*" for sign in signs):
            signs.append("*")
        stars = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        # A class or function among defaults is named by its address, which no two runs share.
        plain = one.default is None or isinstance(one.default, (str, int, float, bool))
        default = "" if one.default is one.empty else f"={one.default!r}" if plain else "=..."
        signs.append(f"{stars}{one.name}{default}")
    return signs
