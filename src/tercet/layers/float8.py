"""Linear layers in float8 (e4m3; Micikevicius et al. 2022): weights quantised once, activations as they come.

Each output channel of a weight and each token of an activation has a scale of its own, its largest magnitude
over 448. The product of the codes is summed in float32 (not in the tensor cores' shorter accumulator, which
torch calls fast), multiplied by both scales and rounded to bfloat16; bias, activation and residual follow in
bfloat16.
"""

from __future__ import annotations

__all__ = ["Float8Product", "Multiply", "multiply", "multiply_by_hand", "quantised", "use_float8"]

from typing import Protocol

import torch
from torch import Tensor, nn

from tercet.layers.activation import Activation
from tercet.layers.linear import Linear

FORMAT = torch.float8_e4m3fn
_LARGEST = torch.finfo(FORMAT).max  # 448
# A row of zeros, or of less than float32 can divide by, has codes of zero.
_LEAST_SCALE = torch.finfo(torch.float32).tiny
# The kernels read 16 codes at a time.
_STEP = 16
_BLOCK = 4096  # rows


class Multiply(Protocol):
    """The product of two quantised matrices."""

    def __call__(self, x: Tensor, x_scales: Tensor, weight: Tensor, weight_scales: Tensor) -> Tensor:
        """(tokens, in) codes, (tokens, 1), (out, in) codes, (1, out) -> (tokens, out) in bfloat16."""
        ...


def quantised(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and scales of a matrix's rows: rows are about codes * scales.

    A code is at most 1/16 of its number away from it; of numbers so small against their row's largest that
    they leave the format's normal range, at most 2^-10 of the row's scale.

    Args:
        rows: (rows, width) in any float dtype.

    Returns:
        (rows, width) in float8 e4m3 and (rows, 1) in float32. Where a row has a value that is not finite, so
        have its codes, so that the check for them behind the encoder finds it.
    """
    codes = torch.empty(rows.shape, dtype=FORMAT, device=rows.device)
    scales = torch.empty(len(rows), 1, dtype=torch.float32, device=rows.device)
    # In blocks, since the quotients are float32: a large batch's would take more memory than its activations.
    for start in range(0, len(rows), _BLOCK):
        here = slice(start, start + _BLOCK)
        largest = rows[here].abs().amax(dim=1, keepdim=True).float()
        scales[here] = (largest / _LARGEST).clamp_(min=_LEAST_SCALE)
        # Division may round just above the largest code, which not every device's conversion saturates.
        codes[here] = (rows[here] / scales[here]).clamp_(-_LARGEST, _LARGEST)
    return codes, scales


def multiply(x: Tensor, x_scales: Tensor, weight: Tensor, weight_scales: Tensor) -> Tensor:
    """The product by torch's kernel: tensor cores of compute capability 8.9 and later; slow on a CPU."""
    return torch._scaled_mm(
        x, weight.t(), x_scales, weight_scales, out_dtype=torch.bfloat16, use_fast_accum=False
    )


def multiply_by_hand(x: Tensor, x_scales: Tensor, weight: Tensor, weight_scales: Tensor) -> Tensor:
    """The same in float32, operands multiplied by their scales first: what `multiply` is measured against."""
    exact = (x.float() * x_scales) @ (weight.float() * weight_scales.t()).t()
    return exact.to(torch.bfloat16)


class Float8Product:
    """What a linear layer computes of its quantised weight, which it holds itself.

    Attributes:
        codes, scales: (out, in) in float8 e4m3, (1, out) in float32.
        by: how two quantised matrices are multiplied.
    """

    def __init__(self, weight: Tensor, by: Multiply = multiply) -> None:
        self.codes, scales = quantised(weight)
        self.scales = scales.t().contiguous()
        self.by = by

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        activation: Activation | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """(tokens, in) -> (tokens, out), both in bfloat16, as the bias is."""
        out = self.by(*quantised(x), self.codes, self.scales) + bias
        if activation is not None:
            return activation(out)
        return out if residual is None else out + residual


def use_float8(
    module: nn.Module, by: Multiply = multiply, *, device: torch.device | None = None
) -> tuple[int, tuple[str, ...]]:
    """Quantise the weights of a module's linear layers, one at a time; their own memory is given up.

    Args:
        module: in bfloat16.
        by: which product they take.
        device: where the codes are to be, and are made; where the weights are if None.

    Returns:
        How many layers were quantised, and the names of those that stay in bfloat16 since a size of theirs is
        no multiple of 16.
    """
    count, kept = 0, []
    for name, layer in module.named_modules():
        if not isinstance(layer, Linear):
            continue
        if layer.in_features % _STEP or layer.out_features % _STEP:
            kept.append(name)
            continue
        layer.product = Float8Product(layer.weight.to(device or layer.weight.device), by)
        layer.weight = nn.Parameter(layer.weight.new_empty(0), requires_grad=False)
        count += 1
    return count, tuple(kept)
