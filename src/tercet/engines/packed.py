"""Encoders on the CPU whose linear layers an engine packs in its own way; the rest is as torch has it."""

from __future__ import annotations

__all__ = ["LinearWeight", "PackedEncoder", "SingleLinear", "lacks_decoders", "load_packed"]

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from tercet.batch import Batch
from tercet.checkpoint.decoder_files import DECODERS
from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.layout import Checkpoint
from tercet.encoders import Encoder
from tercet.engines.heap import give_back_free_memory
from tercet.layers.activation import Activation
from tercet.layers.linear import Linear, Product, torch_product
from tercet.model import check_encoder, read_target
from tercet.precision.dtype import DType

_BATCHES_BETWEEN_TRIMS = 16


@dataclass(frozen=True, slots=True)
class LinearWeight:
    """The weight of one linear layer in its file: several tensors, one above the other, where it is fused.

    Attributes:
        path: the layer's name in the encoder: "layers.0.qkv.fused".
        shape: (out, in).
        parts: its tensors, in the order of their rows.
        checkpoint: where they are.
    """

    path: str
    shape: tuple[int, int]
    parts: tuple[TensorInfo, ...]
    checkpoint: Checkpoint

    @property
    def is_half(self) -> bool:
        """Whether all of it is stored in float16."""
        return all(info.dtype == str(DType.FLOAT16) for info in self.parts)

    def read(self, dtype: DType = DType.FLOAT32) -> Tensor:
        """(out, in) in memory of its own."""
        whole = torch.empty(self.shape, dtype=dtype.torch)
        row = 0
        for info in self.parts:
            part = self.checkpoint.read(info, dtype)
            whole[row : row + len(part)] = part
            row += len(part)
            self.checkpoint.release(info)
        return whole


class SingleLinear:
    """A linear layer in float32 among narrower ones."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        activation: Activation | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """(tokens, in) float32 -> (tokens, out) float32."""
        return torch_product(x, self._weight, bias, activation, residual)


def lacks_decoders(architecture: str) -> str | None:
    """Why an engine of packed layers cannot run an architecture: a decoder's layers have other parts."""
    if architecture not in DECODERS:
        return None
    return f"this engine has encoders alone, and {architecture} is a decoder"


def load_packed(checkpoint: Checkpoint, products: Callable[[list[LinearWeight]], list[Product]]) -> nn.Module:
    """The encoder with what `products` makes of its linear layers; their own weights stay without memory.

    Biases and norms are float32; tables of embeddings stay as they are stored, mapped from the file.

    Args:
        checkpoint: where the weights are.
        products: given all linear layers of the encoder, one product for each.
    """
    module, names = check_encoder(checkpoint)
    layers = {path: part for path, part in module.named_modules() if isinstance(part, Linear)}
    parts: dict[str, list[tuple[int, TensorInfo]]] = defaultdict(list)
    for name, target in names.items():
        owner, _, leaf = target.parameter.rpartition(".")
        info = checkpoint.tensors[name]
        if owner in layers and leaf == "weight":
            parts[owner].append((target.first_row or 0, info))
            continue
        place = module.get_submodule(owner)
        kept = _kept_as(info) if isinstance(place, nn.Embedding) else DType.FLOAT32
        tensor = read_target(checkpoint, name, target, kept)
        if target.first_row is None:
            setattr(place, leaf, nn.Parameter(tensor, requires_grad=False))
            continue
        whole = getattr(place, leaf)
        if whole.is_meta:
            whole = nn.Parameter(torch.empty(whole.shape, dtype=torch.float32), requires_grad=False)
            setattr(place, leaf, whole)
        whole.data[target.first_row : target.first_row + len(tensor)] = tensor
    weights = [
        LinearWeight(
            path,
            (layer.out_features, layer.in_features),
            tuple(info for _, info in sorted(parts[path], key=lambda part: part[0])),
            checkpoint,
        )
        for path, layer in layers.items()
    ]
    for weight, product in zip(weights, products(weights), strict=True):
        layers[weight.path].product = product
    return module


def _kept_as(info: TensorInfo) -> DType:
    """As stored, where the rows of a few tokens can be widened to float32."""
    stored = DType.parse(info.dtype)
    return stored if stored in (DType.FLOAT16, DType.BFLOAT16) else DType.FLOAT32


class PackedEncoder:
    """The forward of such an encoder.

    Attributes:
        float32_layers: linear layers computed in float32, since the plan says so or their weights leave the
            range of the format.
    """

    def __init__(
        self, encoder: nn.Module, token_budget: int, *, float32_layers: tuple[str, ...] = ()
    ) -> None:
        self.device = torch.device("cpu")
        self.float32_layers = float32_layers
        self._encoder = cast(Encoder, encoder)
        self._trim_after = _BATCHES_BETWEEN_TRIMS * token_budget
        self._tokens_since_trim = 0

    @property
    def encoder(self) -> nn.Module:
        """The encoder with its packed layers."""
        return cast(nn.Module, self._encoder)

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden) of the last layer, in float32."""
        with torch.inference_mode():
            hidden = self._encoder(batch)
        self._tokens_since_trim += batch.num_tokens
        if self._tokens_since_trim > self._trim_after:
            self._tokens_since_trim = 0
            give_back_free_memory()
        return hidden
