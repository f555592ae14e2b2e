"""How an encoder's forward runs: one small protocol, one file an engine."""

from __future__ import annotations

__all__ = ["ENGINES", "Engine", "EngineKind"]

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from tercet.batch import Batch
from tercet.checkpoint.layout import Checkpoint
from tercet.precision.hardware import Measured
from tercet.precision.plan import Plan
from tercet.precision.scheme import Scheme
from tercet.registry import Registry


class Engine(Protocol):
    """A model's body, placed and ready. Safe to call from several threads at once."""

    @property
    def device(self) -> torch.device:
        """Where `forward` leaves its result."""
        ...

    @property
    def float32_layers(self) -> tuple[str, ...]:
        """Linear layers in float32 by the plan's wish, or since their weights leave the format's range."""
        ...

    @property
    def encoder(self) -> nn.Module:
        """What `forward` runs, for those who look inside; packed layers hold no weights of their own."""
        ...

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden) of the last layer, in the plan's compute dtype on the engine's device."""
        ...


class EngineKind(Protocol):
    """What an engine's file registers: the schemes it can run, how they are probed, how a model is opened."""

    name: str

    def schemes(self, device: str) -> Sequence[Scheme]:
        """The schemes worth probing on a device; whether they run is for `probe` to say."""
        ...

    def probe(self, device: str, schemes: Sequence[Scheme]) -> Mapping[Scheme, Measured]:
        """What was measured of each scheme."""
        ...

    def lacks(self, architecture: str) -> str | None:
        """Why it cannot run an architecture; None where it can."""
        ...

    def open(self, checkpoint: Checkpoint, plan: Plan) -> Engine:
        """The checkpoint's body, loaded as the plan says."""
        ...


ENGINES: Registry[EngineKind] = Registry("engine", "tercet.engines")
