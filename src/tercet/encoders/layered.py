"""What encoders of layers behind each other have in common: each layer takes what the one before it gave."""

from __future__ import annotations

__all__ = ["LayeredEncoder", "table"]

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tercet.batch import Batch
from tercet.layers.calling import direct
from tercet.layers.mixing import LayerMix, outcome


class LayeredEncoder(nn.Module, ABC):
    """A body that is embeddings and layers. Subclasses say how tokens are embedded, and name the weights.

    Attributes:
        layers: each maps (hidden, batch) to hidden; a subclass sets them once its embeddings are there.
        mix: which layers `forward` adds up; None for the last one's states alone.
    """

    layers: nn.ModuleList

    def __init__(self) -> None:
        super().__init__()
        self.mix: LayerMix | None = None

    @abstractmethod
    def embed(self, batch: Batch) -> Tensor:
        """(tokens, hidden) that enter the first layer."""

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        """The layers, each with the prefix of its parameters."""
        for index, layer in enumerate(self.layers):
            yield f"layers.{index}.", layer

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden) of the last layer, in the dtype of the weights; of `mix` in float32 or wider."""
        return outcome(self._states(batch), self.mix)

    def _states(self, batch: Batch) -> Iterator[Tensor]:
        """What enters the first layer, and what each gives."""
        hidden = self.embed(batch)
        yield hidden
        for layer in self.layers:
            hidden = direct(layer)(hidden, batch)
            yield hidden


def table(rows: int, width: int) -> nn.Embedding:
    """An embedding that nothing initialises: random numbers on the meta device import sympy, in 1.5 s."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))
