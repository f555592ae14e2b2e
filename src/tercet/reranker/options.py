"""What one call of a reranker asks for, checked."""

from __future__ import annotations

__all__ = ["Call", "activation_of", "default_activation", "truncation_of"]

from dataclasses import dataclass
from functools import partial

import torch

from tercet.checkpoint.layout import Checkpoint
from tercet.errors import CheckpointError, InputError, nearest
from tercet.layers.activation import Activation, module_activation
from tercet.text.pairs import TRUNCATIONS, Truncation

_softmax: Activation = partial(torch.softmax, dim=-1)


@dataclass(frozen=True, slots=True)
class Call:
    """One call's options, checked.

    Attributes:
        activation: what becomes of logits.
        prompt: before each query; empty for none.
        max_length: most tokens of a pair, special tokens included.
        truncation, query_max_length: see `PairEncoder.encode`.
    """

    activation: Activation
    prompt: str
    max_length: int
    truncation: Truncation
    query_max_length: int | None


def default_activation(checkpoint: Checkpoint) -> str:
    """The name that the checkpoint gives; else a sigmoid of one label and the logits of several."""
    config = checkpoint.modules[-1].config
    name: str | None = config["activation"]
    if name is None:
        name = "Sigmoid" if config["labels"] == 1 else "Identity"
    try:
        activation_of(name)
    except InputError as error:
        raise CheckpointError(
            f"{checkpoint.folder}: its scores go through {name!r}, and no code of a checkpoint is run. "
            f"Choose one of torch.nn's, such as load_reranker(..., activation='Identity'). {error}"
        ) from None
    return name


def activation_of(name: str) -> Activation:
    """The function of a name: a class of torch.nn without arguments; Softmax is taken over the labels.

    Raises:
        InputError: no such class is known; names of other libraries are never imported.
    """
    if not isinstance(name, str):
        raise InputError(
            f"activation is {name!r}. Pass a name of torch.nn: 'Sigmoid', 'Identity', 'Softmax'."
        )
    if name.rsplit(".", 1)[-1] == "Softmax" and (name == "Softmax" or name.startswith("torch.nn.")):
        return _softmax
    try:
        return module_activation(name, "activation")
    except CheckpointError as error:
        raise InputError(str(error)) from None


def truncation_of(name: str) -> Truncation:
    """The rule of that name."""
    for known in TRUNCATIONS:
        if name == known:
            return known
    raise InputError(f"truncation is {name!r}. {nearest(str(name), TRUNCATIONS)}")
