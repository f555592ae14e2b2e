"""The largest number that flows through each layer on sample texts, against what a format can hold."""

from __future__ import annotations

__all__ = ["ActivationRanges", "LayerRange", "activation_ranges"]

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.batch import Batch
from tercet.checkpoint.bag_files import BAG_OF_WORDS
from tercet.checkpoint.layout import Checkpoint
from tercet.checkpoint.sparse_modules import SPARSE_MODULES
from tercet.checkpoint.token_modules import LAYER_POOLING
from tercet.encoders import Encoder
from tercet.errors import InputError, NonFiniteError
from tercet.heads import HeadOptions, Heads
from tercet.layers.activation import Activation
from tercet.layers.linear import Linear
from tercet.layers.mixing import outcome
from tercet.model import load_encoder
from tercet.modules import Tokens
from tercet.modules.colbert_linear import ColbertLinear
from tercet.modules.dense_layer import Dense
from tercet.modules.sparse_linear import SparseLinear
from tercet.precision.dtype import DType
from tercet.text.tokenizer import Tokenizer

_EMBEDDINGS = "embeddings"
_WITH_MATRIX = (Dense, SparseLinear, ColbertLinear)

Look: TypeAlias = Callable[[Tensor], None]


@dataclass(frozen=True, slots=True)
class LayerRange:
    """The largest activation of one layer.

    Attributes:
        layer: "embeddings", "layer 17", or the place of a module behind the encoder: "2_Dense".
        index: number of the encoder's layer, None of the others.
        largest: largest magnitude.
        where: the part of the layer that it was seen in: "feed_forward.down".
        text: position of the text.
    """

    layer: str
    index: int | None
    largest: float
    where: str
    text: int

    def fits(self, dtype: DType) -> bool:
        """Whether a format can hold it."""
        return self.largest <= dtype.max

    def sentence(self, dtypes: Sequence[DType]) -> str:
        """What that means: "layer 17: 71,204 > 65,504: float16 is unsafe here, bfloat16 is not"."""
        unsafe = [dtype for dtype in dtypes if not self.fits(dtype)]
        safe = [dtype for dtype in dtypes if self.fits(dtype)]
        if not unsafe:
            return f"{self.layer}: at most {_number(self.largest)}: {_list(safe)} safe here"
        bound = max(dtype.max for dtype in unsafe)
        rest = f", {_list(safe)} not" if safe else ""
        return f"{self.layer}: {_number(self.largest)} > {_number(bound)}: {_list(unsafe)} unsafe here{rest}"


@dataclass(frozen=True, slots=True)
class ActivationRanges:
    """The largest activations of a model on sample texts.

    Attributes:
        layers: the embeddings, the encoder's layers, the modules behind it, in this order.
        texts, tokens: how many were run.
        dtype: of that run.
    """

    layers: tuple[LayerRange, ...]
    texts: int
    tokens: int
    dtype: str

    def unsafe(self, dtype: DType) -> tuple[LayerRange, ...]:
        """The layers whose largest activation a format cannot hold."""
        return tuple(layer for layer in self.layers if not layer.fits(dtype))

    def to_json(self) -> dict[str, Any]:
        """Field -> plain value."""
        return asdict(self)


def activation_ranges(
    checkpoint: Checkpoint, batches: Iterable[Batch], *, dtype: DType = DType.FLOAT32
) -> ActivationRanges:
    """The largest activations on the CPU, layer by layer; the model is loaded for this, and let go.

    Seen are the states between layers, and what enters and leaves every product, before its activation
    function and behind its residual. Not seen are the scores inside attention, which kernels keep in float32.

    Args:
        checkpoint: the model.
        batches: sample texts, as `sample_batches` makes them.
        dtype: of the run, wide enough for whatever comes up: float32 or float64.

    Raises:
        InputError: there are no tokens.
        NonFiniteError: an activation is not finite in `dtype` either; the message names layer and text.
    """
    checkpoint = checkpoint.members[0]  # where routes have encoders of their own, the largest
    encoder = cast(Encoder, load_encoder(checkpoint, dtype, fused=False))
    heads = Heads.open(checkpoint, dtype, Tokenizer.open(checkpoint).special_ids)
    watch = _Watch(dtype)
    stages = [(f"layer {index}", stage) for index, (_, stage) in enumerate(encoder.stages())]
    watch.expect(_EMBEDDINGS)
    for index, (layer, stage) in enumerate(stages):
        watch.expect(layer, index)
        for place, part in stage.named_modules():
            if isinstance(part, Linear):
                part.product = partial(_watched_product, partial(watch.look, layer, place))
    for layer, part in _modules(checkpoint, heads):
        watch.expect(layer)
        hook = _watched_matrix if isinstance(part, _WITH_MATRIX) else _watched
        part.register_forward_hook(partial(hook, partial(watch.look, layer, type(part).__name__)))
    options = HeadOptions(heads.outputs)
    with torch.inference_mode():
        for batch in batches:
            watch.begin(batch)
            hidden = outcome(_watched_states(encoder, stages, batch, watch), encoder.mix)
            if len(batch):
                heads(hidden, batch, options)
    return watch.result()


def _watched_states(
    encoder: Encoder, stages: list[tuple[str, nn.Module]], batch: Batch, watch: _Watch
) -> Iterator[Tensor]:
    """What enters the first layer, and what each gives."""
    hidden = encoder.embed(batch)
    watch.look(_EMBEDDINGS, "output", hidden)
    yield hidden
    for layer, stage in stages:
        hidden = stage(hidden, batch)
        watch.look(layer, "output", hidden)
        yield hidden


def _modules(checkpoint: Checkpoint, heads: Heads) -> list[tuple[str, nn.Module]]:
    """What stands behind the encoder, with its place in the checkpoint."""
    # SPLADE's head works in float32 by blocks, whatever the rest does.
    apart = ("pooling", BAG_OF_WORDS, "sparse_linear", "colbert_linear", LAYER_POOLING, *SPARSE_MODULES)
    specs = [spec for spec in checkpoint.modules if spec.kind not in apart]
    parts = [] if heads.chain is None else [*heads.chain.before, *heads.chain.tail]
    found = [(spec.where, part) for spec, part in zip(specs, parts, strict=False)]
    token_heads = (("sparse_linear", heads.sparse), ("colbert_linear", heads.multivector))
    for kind, part in token_heads:
        if part is not None and (spec := checkpoint.module(kind)) is not None:
            found.append((spec.where, part))
    return found


@dataclass(slots=True)
class _Seen:
    """The largest so far."""

    index: int | None
    largest: float = 0.0
    where: str = ""
    text: int = 0


class _Watch:
    """Remembers the largest number of each layer."""

    def __init__(self, dtype: DType) -> None:
        self._dtype = dtype
        self._seen: dict[str, _Seen] = {}
        self._texts = self._tokens = 0
        self._batch: Batch | None = None

    def expect(self, layer: str, index: int | None = None) -> None:
        """A layer, in the order in which they are told."""
        self._seen[layer] = _Seen(index)

    def begin(self, batch: Batch) -> None:
        """The next texts."""
        if self._batch is not None:
            self._texts += len(self._batch)
        self._batch = batch
        self._tokens += batch.num_tokens

    def look(self, layer: str, place: str, values: Tensor) -> None:
        """Remembers where the largest is: of (tokens, width), or of (texts, width)."""
        assert self._batch is not None
        if not values.numel():
            return
        seen = self._seen[layer]
        low, high = (float(end) for end in torch.aminmax(values))
        largest = max(-low, high)
        if largest <= seen.largest:
            return
        rows = values.reshape(len(values), -1).abs().amax(dim=1)
        if not math.isfinite(largest):
            row = int((~torch.isfinite(rows)).nonzero()[0])
            text = self._text(row, len(values))
            raise NonFiniteError(
                f"text {text} gives a value that is not finite at {place} of {layer}, in {self._dtype} too: "
                "the weights are damaged or were saved after an overflow. Fetch the model again."
            )
        seen.largest, seen.where = largest, place
        seen.text = self._text(int(rows.argmax()), len(values))

    def _text(self, row: int, rows: int) -> int:
        """The text of a row, of rows that are tokens or texts."""
        assert self._batch is not None
        if rows != self._batch.num_tokens:
            return self._texts + row
        return self._texts + int(torch.searchsorted(self._batch.cu_seqlens, row, right=True)) - 1

    def result(self) -> ActivationRanges:
        if not self._tokens or self._batch is None:
            raise InputError("There are no tokens to look at. Give a sample of some dozens of texts.")
        layers = tuple(
            LayerRange(layer, seen.index, seen.largest, seen.where, seen.text)
            for layer, seen in self._seen.items()
            if seen.where
        )
        return ActivationRanges(layers, self._texts + len(self._batch), self._tokens, str(self._dtype))


def _watched_product(
    look: Look,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    activation: Activation | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """torch's product, looked at before and after what follows it."""
    look(x)
    out = functional.linear(x, weight, bias)
    look(out)
    if activation is not None:
        return activation(out)
    if residual is None:
        return out
    out = out + residual
    look(out)
    return out


def _watched(look: Look, part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    for values in (*inputs, output):
        if isinstance(values, Tokens):
            # One number a text: what a convolution gives has no row for each token.
            parts = torch.split(values.vectors, list(values.batch.lengths))
            look(torch.stack([part.abs().amax() for part in parts])[:, None])
        elif isinstance(values, Tensor) and values.is_floating_point():
            look(values)


def _watched_matrix(
    look: Look, part: Dense | SparseLinear | ColbertLinear, inputs: tuple[Any, ...], output: Any
) -> None:
    """What a head takes, and its product before whatever follows."""
    rows = inputs[0]
    look(rows)
    look(functional.linear(rows, part.matrix, part.bias))
    if isinstance(output, Tensor):
        look(output)


def _list(dtypes: Sequence[DType]) -> str:
    """The formats and their verb."""
    return f"{' and '.join(map(str, dtypes))} {'is' if len(dtypes) == 1 else 'are'}"


def _number(value: float) -> str:
    """Digits in groups where that is readable: 71,204; 3.4e+38."""
    return f"{value:,.0f}" if 1000.0 <= value < 1e9 else f"{value:.3g}"
