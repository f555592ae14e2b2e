"""Where a scheme's hidden states leave those of a reference, layer by layer."""

from __future__ import annotations

__all__ = ["LayerDrift", "LayerDrifts", "layer_drift"]

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from tercet.batch import Batch
from tercet.encoders import Encoder
from tercet.errors import InputError
from tercet.evaluation.spread import Running, cosine_drift

_EMBEDDINGS = "embeddings"


@dataclass(frozen=True, slots=True)
class LayerDrift:
    """Drift, 1 - cosine of the hidden states of a token, behind one layer.

    Attributes:
        layer: "embeddings" or "layer 17".
        index: number of the layer, None of the embeddings.
        own_mean, own_worst: what this layer adds by itself: both sides were given the reference's states.
        mean, worst: what has come together up to here: each side was given its own states.
        own_lost: tokens whose state is not finite although the layer was given the reference's.
        lost: tokens whose state is not finite. The means leave both out.
        tokens: how many there were.
    """

    layer: str
    index: int | None
    own_mean: float
    own_worst: float
    mean: float
    worst: float
    own_lost: int
    lost: int
    tokens: int


@dataclass(frozen=True, slots=True)
class LayerDrifts:
    """The drift behind each layer, from the embeddings on."""

    layers: tuple[LayerDrift, ...]

    def dominant(self, factor: float = 4.0) -> LayerDrift | None:
        """The first layer that stands out, or None where all lose about alike.

        A layer stands out that makes states infinite by itself, or whose own mean drift is more than `factor`
        times the median of all layers' (of an even number, the smaller one in the middle).
        """
        if not factor >= 1.0:
            raise InputError(f"factor is {factor}; give a number of at least 1.")
        finite = [layer.own_mean for layer in self.layers if not layer.own_lost]
        usual = statistics.median_low(finite) if finite else 0.0
        for layer in self.layers:
            if layer.own_lost or layer.own_mean > factor * usual:
                return layer
        return None

    def to_json(self) -> list[dict[str, Any]]:
        """Field -> plain value, of each layer."""
        return [asdict(layer) for layer in self.layers]


def layer_drift(reference: nn.Module, found: nn.Module, batches: Iterable[Batch]) -> LayerDrifts:
    """Drift behind each layer of two encoders with the same weights in different formats.

    Both run in step, one batch and one layer at a time, so that no hidden states are kept. Each layer of
    `found` runs twice: after its own states, and after the reference's, cast to its format, which tells the
    error that it makes from the one that it was given.

    Args:
        reference: an encoder, as `load_encoder` makes it, in float32 or float64.
        found: the same in the format, or with the products, that are looked at.
        batches: sample texts, as `sample_batches` makes them.

    Raises:
        InputError: there are no tokens, or the encoders have different layers.
    """
    one, other = cast(Encoder, reference), cast(Encoder, found)
    expected, stages = list(one.stages()), list(other.stages())
    if [prefix for prefix, _ in expected] != [prefix for prefix, _ in stages]:
        raise InputError(
            f"The encoders have {len(expected)} and {len(stages)} layers. Give two of one checkpoint."
        )
    layers = [_Layer(_EMBEDDINGS, None), *(_Layer(f"layer {i}", i) for i in range(len(stages)))]
    # Weights that an engine has packed in its own way stay on the meta device.
    devices = [
        next(parameter.device for parameter in module.parameters() if not parameter.is_meta)
        for module in (reference, found)
    ]
    with torch.inference_mode():
        for batch in batches:
            here, there = (batch.to(device) for device in devices)
            exact, own = one.embed(here), other.embed(there)
            layers[0].add(exact, own, own)
            for layer, (_, right), (_, tried) in zip(layers[1:], expected, stages, strict=True):
                alone: Tensor = tried(exact.to(own.device, own.dtype), there)
                exact, own = right(exact, here), tried(own, there)
                layer.add(exact, alone, own)
    if not layers[0].tokens:
        raise InputError("There are no tokens to compare. Give a sample of some dozens of texts.")
    return LayerDrifts(tuple(layer.result() for layer in layers))


class _Layer:
    """What came together behind one layer."""

    def __init__(self, name: str, index: int | None) -> None:
        self._name, self._index = name, index
        self._own, self._all = Running(), Running()
        self._own_lost = self._lost = 0
        self.tokens = 0

    def add(self, exact: Tensor, alone: Tensor, own: Tensor) -> None:
        """The states of some tokens: right, after the right ones before, after its own before."""
        exact = exact.cpu()
        self.tokens += len(exact)
        self._own_lost += _measure(self._own, exact, alone.cpu())
        self._lost += _measure(self._all, exact, own.cpu())

    def result(self) -> LayerDrift:
        return LayerDrift(
            layer=self._name,
            index=self._index,
            own_mean=self._own.mean,
            own_worst=self._own.worst,
            mean=self._all.mean,
            worst=self._all.worst,
            own_lost=self._own_lost,
            lost=self._lost,
            tokens=self.tokens,
        )


def _measure(running: Running, exact: Tensor, found: Tensor) -> int:
    """Takes the drift of what is finite on both sides; gives how many tokens are not and should be."""
    should = torch.isfinite(exact).all(dim=1)
    finite = should & torch.isfinite(found).all(dim=1)
    running.add(cosine_drift(exact[finite], found[finite]))
    return int((should & ~finite).sum())
