"""Encoder layers that a plan computes in float32, whatever the others are computed in."""

from __future__ import annotations

__all__ = ["check_layers", "float32_prefixes", "linear_layers", "widen"]

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from tercet.batch import Batch
from tercet.encoders import Encoder
from tercet.errors import PrecisionError
from tercet.layers.calling import direct
from tercet.layers.linear import Linear


class _Float32Layer(nn.Module):
    """A layer between casts: its weights are float32, and so is everything inside."""

    def __init__(self, layer: nn.Module, narrow: torch.dtype | None) -> None:
        super().__init__()
        self.layer = layer
        self._narrow = narrow  # None where the next layer is float32, too

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """(tokens, hidden) -> (tokens, hidden)."""
        out: Tensor = direct(self.layer)(hidden.float(), batch)
        return out if self._narrow is None else out.to(self._narrow)


def check_layers(numbers: Iterable[int], layers: int, where: str) -> None:
    """An error unless all are numbers of an encoder's layers."""
    for number in numbers:
        if not 0 <= number < layers:
            raise PrecisionError(
                f"{where} keeps layer {number} in float32; the encoder has layers 0 to {layers - 1}. "
                "Make the plan anew."
            )


def float32_prefixes(module: nn.Module, numbers: tuple[int, ...]) -> tuple[str, ...]:
    """What the parameters of these layers begin with."""
    if not numbers:
        return ()
    prefixes = [prefix for prefix, _ in cast(Encoder, module).stages()]
    check_layers(numbers, len(prefixes), "the plan")
    return tuple(prefixes[number] for number in numbers)


def linear_layers(module: nn.Module, prefixes: tuple[str, ...]) -> tuple[str, ...]:
    """The linear layers below these prefixes."""
    return tuple(
        path
        for path, part in module.named_modules()
        if isinstance(part, Linear) and path.startswith(prefixes)
    )


def widen(module: nn.Module, numbers: tuple[int, ...], narrow: torch.dtype) -> None:
    """Put casts around these layers, whose weights are float32 already; between two of them there is none."""
    for number, prefix in zip(numbers, float32_prefixes(module, numbers), strict=True):
        owner, _, name = prefix.rstrip(".").rpartition(".")
        place = module.get_submodule(owner)
        after = None if number + 1 in numbers else narrow
        setattr(place, name, _Float32Layer(place.get_submodule(name), after))
