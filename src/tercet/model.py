"""Checkpoint + precision -> encoder: every tensor used or named, nothing random."""

from __future__ import annotations

__all__ = [
    "check_encoder",
    "hidden_in_float32",
    "load_encoder",
    "position_limit",
    "read_target",
]

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from tercet.batch import Batch
from tercet.checkpoint.body import UNLIMITED
from tercet.checkpoint.encoder_files import position_limit as positions_of
from tercet.checkpoint.layout import Checkpoint
from tercet.checkpoint.token_modules import LAYER_POOLING
from tercet.encoders import ENCODERS, Encoder, Target
from tercet.encoders.static import StaticEncoder
from tercet.encoders.token_presence import TokenPresence
from tercet.errors import CheckpointError
from tercet.layers.mixing import LayerMix, outcome
from tercet.precision.dtype import DType


def check_encoder(checkpoint: Checkpoint, *, fused: bool = True) -> tuple[nn.Module, Mapping[str, Target]]:
    """The encoder without memory and the table of its tensors, after every name and shape was compared.

    Reads no weight, but for those few by which a WeightedLayerPooling adds up the layers.

    Raises:
        CheckpointError: a tensor is missing, has another shape, or is not known; all are named at once.
    """
    where = str(checkpoint.folder / "config.json")
    module = _bare_encoder(checkpoint, fused=fused)
    module.requires_grad_(False).eval()
    cast(Encoder, module).mix = _layer_mix(checkpoint)
    names = cast(Encoder, module).names()
    faults = [f"'{name}' is missing" for name in names if name not in checkpoint.tensors]
    faults += [f"'{name}' is not known" for name in checkpoint.tensors if name not in names]
    faults += [
        f"'{name}' is {info.shape}, {where} makes it {target.shape}"
        for name, target in names.items()
        if (info := checkpoint.tensors.get(name)) is not None and info.shape != target.shape
    ]
    if faults:
        shown = "; ".join(faults[:6]) + (f"; and {len(faults) - 6} more" if len(faults) > 6 else "")
        raise CheckpointError(
            f"{checkpoint.folder}: the weights do not fit a {checkpoint.architecture} encoder: {shown}. "
            "Fetch the model again, or put the config.json that was saved with these weights beside them."
        )
    return module, names


def position_limit(checkpoint: Checkpoint) -> int:
    """Most tokens of a text that the encoder has positions for."""
    _check_layers(checkpoint)
    if not checkpoint.config["num_hidden_layers"]:  # a table alone knows no positions
        return UNLIMITED
    return positions_of(checkpoint.architecture, checkpoint.config)


def _check_layers(checkpoint: Checkpoint) -> None:
    """Refuse a number of layers that the weights cannot have."""
    where = checkpoint.folder / "config.json"
    # Each layer has tensors of its own; a number made up in the configuration is not built first.
    if (layers := int(checkpoint.config["num_hidden_layers"])) > max(100, len(checkpoint.tensors)):
        raise CheckpointError(
            f"{where} says {layers:,} layers, the weights have {len(checkpoint.tensors):,} tensors. "
            "Put the config.json that was saved with these weights beside them."
        )


def _bare_encoder(checkpoint: Checkpoint, *, fused: bool = True) -> nn.Module:
    """The encoder without memory."""
    _check_layers(checkpoint)
    where = str(checkpoint.folder / "config.json")
    with torch.device("meta"):
        return ENCODERS[checkpoint.architecture](checkpoint.config, where, fused=fused)


def _layer_mix(checkpoint: Checkpoint) -> LayerMix | None:
    """Which hidden states a WeightedLayerPooling adds up, and how much each of them counts."""
    spec = checkpoint.module(LAYER_POOLING)
    if spec is None or not spec.config["active"]:
        return None
    info = spec.tensors["layer_weights"]
    weights = checkpoint.read(info, DType.FLOAT32).double()
    total = float(weights.sum())
    if not total or not bool(torch.isfinite(weights).all()):
        raise CheckpointError(
            f"{info.file}: 'layer_weights' {weights.tolist()} add up to {total:g}, which would divide. "
            "Fetch or save the model again."
        )
    return LayerMix(spec.config["layer_start"], tuple((weights / total).tolist()))


def load_encoder(
    checkpoint: Checkpoint,
    dtype: DType,
    *,
    prefix: str = "",
    fused: bool = True,
    float32_layers: tuple[int, ...] = (),
) -> nn.Module:
    """The encoder with its weights on the CPU in `dtype`, read one tensor at a time.

    Tensors that need no cast and are not fused stay mapped from the file.

    Args:
        checkpoint: where the weights are.
        dtype: of all parameters.
        prefix: load only the parameters below it ("layers.3."); the others stay without memory.
        fused: copy the weights of projections of one input into one product.
        float32_layers: numbers of layers whose parameters are read in float32 instead.
    """
    module, names = check_encoder(checkpoint, fused=fused)
    if isinstance(module, (StaticEncoder, TokenPresence)):
        module.dtype = dtype.torch
    prefixes = [where for where, _ in cast(Encoder, module).stages()] if float32_layers else []
    _fill(module, names, checkpoint, dtype, prefix, tuple(prefixes[number] for number in float32_layers))
    return module


def _fill(
    module: nn.Module,
    names: Mapping[str, Target],
    checkpoint: Checkpoint,
    planned: DType,
    prefix: str,
    in_float32: tuple[str, ...] = (),
) -> None:
    for name, target in names.items():
        if not target.parameter.startswith(prefix):
            continue
        dtype = DType.FLOAT32 if target.parameter.startswith(in_float32) else planned
        tensor = read_target(checkpoint, name, target, dtype)
        path, _, leaf = target.parameter.rpartition(".")
        owner = module.get_submodule(path)
        if target.first_row is None:
            setattr(owner, leaf, nn.Parameter(tensor, requires_grad=False))
            continue
        whole = getattr(owner, leaf)
        if whole.is_meta:
            whole = nn.Parameter(torch.empty(whole.shape, dtype=dtype.torch), requires_grad=False)
            setattr(owner, leaf, whole)
        whole.data[target.first_row : target.first_row + len(tensor)].copy_(tensor)
        checkpoint.release(checkpoint.tensors[name])


def read_target(checkpoint: Checkpoint, name: str, target: Target, dtype: DType) -> Tensor:
    """A tensor of the encoder on the CPU: in `dtype`, or as it is stored where it is used so.

    Raises:
        CheckpointError: it names rows that are not there.
    """
    info = checkpoint.tensors[name]
    if not target.as_stored:
        return checkpoint.read(info, dtype)
    stored = checkpoint.stored(info)
    if target.below is not None and stored.numel():
        low, high = (int(bound) for bound in torch.aminmax(stored))
        if low < 0 or high >= target.below:
            raise CheckpointError(
                f"{info.file}: {info.name!r} names rows {low:,} to {high:,}, there are {target.below:,}. "
                "The file is damaged or of different saves; fetch the model again."
            )
    return stored


def hidden_in_float32(checkpoint: Checkpoint, batch: Batch) -> Tensor:
    """(tokens, hidden) of a batch on the CPU, computed in float32, one layer in memory at a time.

    For texts whose values left the range of the planned dtype: no second model is held.
    """
    module, names = check_encoder(checkpoint)
    encoder = cast(Encoder, module)
    with torch.no_grad():
        for name, target in names.items():
            if target.parameter.startswith("layers."):
                continue
            owner = module.get_submodule(target.parameter.rpartition(".")[0])
            info = checkpoint.tensors[name]
            if len(info.shape) == 2 and target.parameter == "word.weight":
                # Of the word embeddings only the rows of these texts are cast; the rest stays in the file.
                ids, batch = _renumber(batch)
                stored = checkpoint.read(info, DType.parse(info.dtype))
                owner.weight = nn.Parameter(stored[ids].float(), requires_grad=False)
                checkpoint.release(info)
            else:
                leaf = target.parameter.rpartition(".")[2]
                tensor = read_target(checkpoint, name, target, DType.FLOAT32)
                setattr(owner, leaf, nn.Parameter(tensor, requires_grad=False))

        def states() -> Iterator[Tensor]:
            hidden = encoder.embed(batch)
            yield hidden
            for prefix, layer in encoder.stages():
                _fill(module, names, checkpoint, DType.FLOAT32, prefix)
                hidden = layer(hidden, batch)
                layer.to("meta")
                for name, target in names.items():
                    if target.parameter.startswith(prefix):
                        checkpoint.release(checkpoint.tensors[name])
                yield hidden

        return outcome(states(), encoder.mix)


def _renumber(batch: Batch) -> tuple[Tensor, Batch]:
    """The distinct token ids of a batch, and the batch with their numbers in place of them."""
    ids, numbers = torch.unique(batch.token_ids, return_inverse=True)
    return ids, replace(batch, token_ids=numbers)
