"""Encoders, one file an architecture family: packed tokens in, one vector a token out."""

from __future__ import annotations

__all__ = ["ENCODERS", "Encoder", "EncoderFactory", "Target"]

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from tercet.batch import Batch
from tercet.layers.mixing import LayerMix
from tercet.registry import Registry


@dataclass(frozen=True, slots=True)
class Target:
    """Where a checkpoint's tensor goes: a parameter of the encoder, or rows of a fused one.

    Attributes:
        parameter: its name in the encoder.
        shape: of the tensor.
        first_row: where it begins in a fused parameter; None of one that is not.
        as_stored: taken as it is stored, whatever the planned dtype; the encoder widens what it picks of it.
        below: of whole numbers that name rows, how many rows there are.
    """

    parameter: str
    shape: tuple[int, ...]
    first_row: int | None = None
    as_stored: bool = False
    below: int | None = None


class Encoder(Protocol):
    """An encoder's body, in stages, so that a stage at a time can be held in memory.

    `mix` is set by whoever loads it: which layers its forward adds up; None for the last one's states alone.
    """

    mix: LayerMix | None

    @property
    def max_tokens(self) -> int:
        """Most tokens of a text that there are positions for."""
        ...

    def names(self) -> Mapping[str, Target]:
        """Checkpoint name -> where it goes; a table in the architecture's file."""
        ...

    def embed(self, batch: Batch) -> Tensor:
        """(tokens, hidden) that enter the first layer."""
        ...

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        """The layers, each with the prefix of its parameters; a layer maps (hidden, batch) to hidden."""
        ...

    def __call__(self, batch: Batch) -> Tensor:
        """(tokens, hidden) of the last layer, or of `mix`."""
        ...


class EncoderFactory(Protocol):
    """Builds an architecture's module from config.json; under `torch.device("meta")` without memory."""

    def __call__(self, config: Mapping[str, Any], where: str, *, fused: bool = True) -> nn.Module:
        """The module; `where` is what errors call the configuration.

        `fused`: projections of one input are one product, which copies their weights; else they stay apart.
        """
        ...


ENCODERS: Registry[EncoderFactory] = Registry("encoder architecture", "tercet.encoders")
