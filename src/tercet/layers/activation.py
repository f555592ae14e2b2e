"""Activation functions by the names that configurations use."""

from __future__ import annotations

__all__ = ["Activation", "encoder_activation", "module_activation"]

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from tercet.errors import CheckpointError, nearest

Activation = Callable[[Tensor], Tensor]

_gelu_tanh: Activation = partial(functional.gelu, approximate="tanh")

# config.json's hidden_act
_ENCODER: dict[str, Activation] = {
    "gelu": functional.gelu,
    "gelu_python": functional.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": functional.relu,
    "silu": functional.silu,
    "swish": functional.silu,
    "tanh": torch.tanh,
}

# Dense's activation_function: a class of torch.nn.modules without arguments, by its last name
_MODULE: dict[str, Activation] = {
    "Identity": lambda x: x,
    "Tanh": torch.tanh,
    "ReLU": functional.relu,
    "ReLU6": functional.relu6,
    "GELU": functional.gelu,
    "SiLU": functional.silu,
    "Mish": functional.mish,
    "Sigmoid": torch.sigmoid,
    "LeakyReLU": functional.leaky_relu,
    "ELU": functional.elu,
    "SELU": functional.selu,
    "CELU": functional.celu,
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
    "LogSigmoid": functional.logsigmoid,
    "Hardtanh": functional.hardtanh,
    "Hardswish": functional.hardswish,
    "Hardsigmoid": functional.hardsigmoid,
    "Tanhshrink": functional.tanhshrink,
}


def encoder_activation(name: str, where: str) -> Activation:
    """The function that config.json's `hidden_act` means."""
    if name not in _ENCODER:
        raise CheckpointError(f"{where}: hidden_act {name!r} is not known. {nearest(name, _ENCODER)}")
    return _ENCODER[name]


def module_activation(path: str, where: str) -> Activation:
    """The function that a Dense layer's `activation_function` means: "torch.nn.modules.activation.Tanh"."""
    name = path.rsplit(".", 1)[-1]
    if name not in _MODULE or not (path == name or path.startswith("torch.nn.")):
        raise CheckpointError(
            f"{where}: activation_function {path!r} is not one of torch.nn's activations without arguments. "
            f"{nearest(name, _MODULE)}"
        )
    return _MODULE[name]
