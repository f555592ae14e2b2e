"""Which tensors of two checkpoints are the same one: names without prefixes, layers apart from the rest."""

from __future__ import annotations

__all__ = ["Place", "before_layers", "in_layer", "place_of"]

import re
from dataclasses import dataclass

from tercet.checkpoint.encoder_files import own_name

_LAYER = re.compile(r"(?:^|\.)(?:layers?|block|blocks|h)\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor belongs: its name without known prefixes, "{}" for its layer, and the layer's number."""

    pattern: str
    layer: int | None

    def __str__(self) -> str:
        return in_layer(self.pattern, self.layer)


def place_of(stored: str) -> tuple[Place, str]:
    """The place of a tensor, and the file's own name for it with "{}" for the layer."""
    own = own_name(stored)
    found = _LAYER.search(own)
    if found is None:
        return Place(own, None), stored
    in_file = _LAYER.search(stored)
    assert in_file is not None
    return Place(_cut(own, found), int(found[1])), _cut(stored, in_file)


def in_layer(pattern: str, layer: int | None) -> str:
    """The name for a layer."""
    return pattern if layer is None else pattern.replace("{}", str(layer), 1)


def before_layers(pattern: str) -> bool:
    """Whether a tensor that belongs to no layer comes before all: embeddings, and what normalises them."""
    return "embed" in pattern or pattern.startswith(("wte.", "wpe."))


def _cut(name: str, found: re.Match[str]) -> str:
    start, end = found.span(1)
    return f"{name[:start]}{{}}{name[end:]}"
