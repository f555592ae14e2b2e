"""The encoder while it is trained: float32 weights of its own, dropout, adapters, layers computed twice."""

from __future__ import annotations

__all__ = [
    "body_tensors",
    "dropout_part",
    "hidden_states",
    "open_body",
    "own_weights",
    "warn_of_narrow_weights",
]

import logging
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as computed_twice

from tercet.batch import Batch
from tercet.checkpoint.contents import Checkpoint
from tercet.checkpoint.header import TensorInfo
from tercet.encoders import Encoder
from tercet.errors import CheckpointError
from tercet.layers.mixing import outcome
from tercet.model import load_encoder
from tercet.precision.dtype import DType
from tercet.training.dropout import add_dropout
from tercet.training.lora import Adapter, add_adapters
from tercet.training.recipe import LoraRecipe

logger = logging.getLogger(__name__)


def open_body(
    checkpoint: Checkpoint,
    *,
    dropout: float | None,
    freezes: bool,
    freezes_embeddings: bool = False,
    lora: LoraRecipe | None,
    seed: int,
) -> tuple[nn.Module, float]:
    """The encoder with float32 weights of its own, whatever the files have; and the dropout of embeddings.

    Args:
        checkpoint: of which it is.
        dropout: everywhere; None for what config.json says.
        freezes: it learns nothing.
        freezes_embeddings: its tables of words, positions and token types learn nothing.
        lora: adapters learn in place of its weights.
        seed: of adapters.

    Raises:
        CheckpointError: config.json has a dropout that cannot be.
        InputError: there is no layer for adapters.
    """
    encoder = load_encoder(checkpoint, DType.FLOAT32, fused=False)
    own_weights(encoder)
    encoder.requires_grad_(not freezes)
    if freezes_embeddings:
        for name, target in cast(Encoder, encoder).names().items():
            if name.endswith("_embeddings.weight"):
                encoder.get_parameter(target.parameter).requires_grad_(False)
    hidden = 0.0
    if not freezes:
        config = checkpoint.config
        hidden = dropout_part(config, dropout, "hidden_dropout_prob", "dropout")
        attention = dropout_part(config, dropout, "attention_probs_dropout_prob", "attention_dropout")
        add_dropout(encoder, hidden, attention)
    if lora is not None:
        add_adapters(encoder, lora, seed)
    return encoder, hidden


def hidden_states(
    module: nn.Module, batch: Batch, *, dropout: float, checkpointing: bool, freezes: bool
) -> Tensor:
    """(tokens, hidden) of an encoder, in the dtype that is computed in.

    Args:
        module: the encoder.
        batch: packed tokens.
        dropout: of embeddings, while it trains.
        checkpointing: activations of layers are computed twice instead of kept.
        freezes: no gradient is wanted.
    """
    encoder = cast(Encoder, module)

    def states() -> Iterator[Tensor]:
        hidden = functional.dropout(encoder.embed(batch), dropout, module.training)
        yield hidden
        for _, layer in encoder.stages():
            if checkpointing and torch.is_grad_enabled():
                hidden = cast(Tensor, computed_twice(layer, hidden, batch, use_reentrant=False))
            else:
                hidden = layer(hidden, batch)
            yield hidden

    with torch.set_grad_enabled(torch.is_grad_enabled() and not freezes):
        return outcome(states(), encoder.mix)


def body_tensors(module: nn.Module, checkpoint: Checkpoint) -> Iterator[tuple[TensorInfo, Tensor]]:
    """An encoder's tensors as its checkpoint names them, adapters added."""
    for name, target in cast(Encoder, module).names().items():
        values: Tensor = module.get_parameter(target.parameter)
        owner, _, kind = target.parameter.rpartition(".")
        adapter = getattr(module.get_submodule(owner), "product", None)
        if kind == "weight" and isinstance(adapter, Adapter):
            values = adapter.added_to(values.detach())
        yield checkpoint.tensors[name], values


def own_weights(module: nn.Module) -> None:
    """Weights in memory of their own: those that needed no cast lie in the file that they were read from."""
    for parameter in module.parameters():
        storage = parameter.untyped_storage()
        # Torch can resize what it allocated, and nothing that is mapped.
        if not (storage.resizable() and storage.nbytes() == parameter.nbytes and parameter.is_contiguous()):
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)


def warn_of_narrow_weights(checkpoint: Checkpoint) -> None:
    """Says in the log that a half-precision checkpoint is widened."""
    stored = {info.dtype for info in checkpoint.tensors.values() if info.is_float}
    if stored != {"float32"}:
        logger.warning(
            "%s is stored in %s. It is trained in float32, into which it was widened: what was rounded away "
            "before is not there.",
            checkpoint.name,
            " and ".join(sorted(stored)),
        )


def dropout_part(config: Mapping[str, Any], asked: float | None, *names: str) -> float:
    """What is asked for, else the first of these of config.json; of none 0.1, as architectures have it.

    Raises:
        CheckpointError: it is no such part.
    """
    if asked is not None:
        return asked
    value = next((config[name] for name in names if config.get(name) is not None), 0.1)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise CheckpointError(f"config.json: {names[0]} is {value!r}; dropout is a number from 0 to below 1.")
    return float(value)
