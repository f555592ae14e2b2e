"""Linear layers by whichever product an engine measured to be fastest."""

from __future__ import annotations

__all__ = [
    "FeedForward",
    "FeedForwardProduct",
    "Linear",
    "Product",
    "ThreeLinear",
    "Unbiased",
    "onednn_product",
    "pack_for_onednn",
    "set_product",
    "torch_product",
]

from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.layers.activation import Activation
from tercet.layers.calling import direct


class Product(Protocol):
    """activation(x weight' + bias), or x weight' + bias + residual; never both."""

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        activation: Activation | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """(tokens, in) -> (tokens, out)."""
        ...


def torch_product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """torch's own linear layer: whatever library it was built with."""
    out = functional.linear(x, weight, bias)
    if activation is not None:
        return activation(out)
    return out if residual is None else out + residual


def onednn_product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    activation: Activation | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """oneDNN's inner product, by the operation that torch's compiler calls; weights plain or packed.

    torch takes MKL for float32, which on some processors does not use their widest registers. What follows
    the product is computed while its result is still in cache.
    """
    pointwise = torch.ops.mkldnn._linear_pointwise
    if residual is not None:
        return cast(Tensor, pointwise.binary(x, residual, weight, bias, "add"))
    if activation is functional.gelu:
        return cast(Tensor, pointwise(x, weight, bias, "gelu", [], "none"))
    out = cast(Tensor, pointwise(x, weight, bias, "none", [], ""))
    return out if activation is None else activation(out)


def pack_for_onednn(weight: Tensor) -> Tensor:
    """A copy of a weight (out, in) in the layout that oneDNN's kernels read; for `onednn_product` alone."""
    # The number of rows is a hint of the size of a batch; the layout serves every size.
    return cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight, 2048))


class Linear(nn.Linear):
    """A linear layer with what follows it: an activation, or the addition of a residual."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.product: Product = torch_product

    def forward(
        self, x: Tensor, activation: Activation | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """(tokens, in) -> (tokens, out)."""
        return self.product(x, self.weight, self.bias, activation, residual)


class Unbiased(Linear):
    """The same without a bias, as decoders have it."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(
        self, x: Tensor, activation: Activation | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """(tokens, in) -> (tokens, out)."""
        if self.product is torch_product:
            return torch_product(x, self.weight, None, activation, residual)
        # Other products add one in any case, while their result is in cache.
        none = x.new_zeros(self.out_features)
        return self.product(x, self.weight, none, activation, residual)


class ThreeLinear(nn.Module):
    """Three linear layers of one input: fused into one product, or apart, each as it lies in its file."""

    def __init__(self, width: int, *, fused: bool) -> None:
        super().__init__()
        self.fused = Linear(width, 3 * width) if fused else None
        self.apart = None if fused else nn.ModuleList(Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(tokens, width) -> three of (tokens, width)."""
        fused = self.fused
        if fused is not None:
            first, second, third = direct(fused)(x).chunk(3, dim=1)
        else:
            assert self.apart is not None
            first, second, third = (layer(x) for layer in self.apart)
        return first, second, third


class FeedForwardProduct(Protocol):
    """down(activation(up(x))) + residual, with weights that it holds itself."""

    def __call__(self, x: Tensor, up_bias: Tensor, down_bias: Tensor, residual: Tensor) -> Tensor:
        """(tokens, width) -> (tokens, width)."""
        ...


class FeedForward(nn.Module):
    """Up, an activation, down and a residual; an engine may do it all at once."""

    def __init__(self, width: int, inner: int, activation: Activation) -> None:
        super().__init__()
        self.up = Linear(width, inner)
        self.down = Linear(inner, width)
        self.activation = activation
        self.product: FeedForwardProduct | None = None

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """(tokens, width) -> (tokens, width)."""
        if self.product is not None:
            return self.product(x, self.up.bias, self.down.bias, residual)
        inner = direct(self.up)(x, activation=self.activation)
        result: Tensor = direct(self.down)(inner, residual=residual)
        return result


def set_product(module: nn.Module, product: Product) -> None:
    """Have every linear layer of a module computed by `product`."""
    for part in module.modules():
        if isinstance(part, Linear):
            part.product = product
