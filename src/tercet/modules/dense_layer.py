"""Dense: a linear layer and an activation over the pooled vector, with or without a residual."""

from __future__ import annotations

__all__ = ["Dense"]

from torch import Tensor, nn
from torch.nn import functional

from tercet.checkpoint.layout import ModuleSpec
from tercet.layers.activation import Activation, module_activation
from tercet.modules import MODULES, Read, weight


class Dense(nn.Module):
    """activation(linear(x)), plus x or its projection where the module has a residual."""

    def __init__(
        self, matrix: Tensor, bias: Tensor | None, activation: Activation, residual: Tensor | bool
    ) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.activation = activation
        self.adds_input = residual is True
        self.residual = nn.Parameter(residual, requires_grad=False) if isinstance(residual, Tensor) else None
        self.out_width = matrix.shape[0]

    def forward(self, vectors: Tensor) -> Tensor:
        """(texts, in) -> (texts, out)."""
        out = self.activation(functional.linear(vectors, self.matrix, self.bias))
        if self.residual is not None:
            return out + functional.linear(vectors, self.residual)
        return out + vectors if self.adds_input else out


@MODULES.register("dense")
def dense(spec: ModuleSpec, width: int, read: Read) -> Dense:
    """A Dense module as the checkpoint describes it."""
    config = spec.config
    out = config["out_features"]
    bias = weight(spec, "linear.bias", (out,), read) if config.get("bias", True) else None
    residual: Tensor | bool = bool(config.get("use_residual", False))
    if residual and out != width:
        residual = weight(spec, "residual.weight", (out, width), read)
    activation = module_activation(config.get("activation_function", "Tanh"), spec.where)
    return Dense(weight(spec, "linear.weight", (out, width), read), bias, activation, residual)
