"""The weighted mean of what an encoder's layers give, summed up as they come."""

from __future__ import annotations

__all__ = ["LayerMix", "outcome"]

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LayerMix:
    """What a WeightedLayerPooling of sentence-transformers makes of all hidden states.

    Attributes:
        first: the first state that counts; 0 is what enters the first layer.
        weights: of the states from there on; they add up to 1.
    """

    first: int
    weights: tuple[float, ...]


def outcome(states: Iterable[Tensor], mix: LayerMix | None) -> Tensor:
    """(tokens, hidden) of the last state, or of the mean of several: of each as soon as it is there.

    One sum is held beside the state that the next layer takes, in float32 or wider, whatever the states are
    in: a half format would round it once for each layer.

    Args:
        states: (tokens, hidden) that enter the first layer, then what each layer gives.
        mix: which of them count how much; None for the last one alone.
    """
    total: Tensor | None = None
    hidden: Tensor | None = None
    for number, hidden in enumerate(states):
        if mix is None or number < mix.first:
            continue
        weight = mix.weights[number - mix.first]
        if total is None:
            wide = torch.promote_types(hidden.dtype, torch.float32)
            # Memory of its own: a layer may still read the state itself.
            total = hidden.to(wide, copy=True).mul_(weight)
        else:
            total.add_(hidden, alpha=weight)
    found = hidden if mix is None else total
    assert found is not None
    return found
