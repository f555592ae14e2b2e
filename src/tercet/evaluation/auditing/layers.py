"""Where it goes wrong: weights and activations beyond a format, and the layers that lose most."""

from __future__ import annotations

__all__ = ["Layers", "layers_to_keep", "look_at_layers", "tensor_rows"]

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tercet.batch import Batch
from tercet.checkpoint.layout import Checkpoint
from tercet.engines import ENGINES
from tercet.errors import PrecisionError
from tercet.evaluation.activation_ranges import ActivationRanges, activation_ranges
from tercet.evaluation.audit_result import LayerRow, TensorRow
from tercet.evaluation.layer_drift import LayerDrifts, layer_drift
from tercet.evaluation.weight_ranges import weight_ranges
from tercet.model import check_encoder, load_encoder
from tercet.precision.dtype import DType
from tercet.precision.plan import Plan

_FORMATS = (DType.FLOAT16, DType.BFLOAT16)
# Of a format that narrows every row a little, only the worst tensors are worth a line.
_MOST_INT8, _MOST_FLOAT = 10, 30
_STANDS_OUT = 4.0  # times the usual layer's own drift


@dataclass(frozen=True, slots=True)
class Layers:
    """What was seen inside.

    Attributes:
        ranges: of activations in float32.
        drifts: name of a scheme -> drift of each layer.
        rows: both, layer by layer.
    """

    ranges: ActivationRanges
    drifts: dict[str, LayerDrifts]
    rows: tuple[LayerRow, ...]


def tensor_rows(checkpoint: Checkpoint) -> tuple[TensorRow, ...]:
    """The tensors that lose something in float16, bfloat16 or int8; the worst first in each."""
    found: dict[str, list[TensorRow]] = {"float16": [], "bfloat16": [], "int8": []}
    for tensor in weight_ranges(checkpoint, dtypes=_FORMATS):
        for loss in tensor.formats:
            if loss.overflow or loss.zeroed or loss.imprecise:
                found[loss.dtype].append(
                    TensorRow(
                        tensor.name, tensor.shape, loss.dtype, tensor.numbers, loss.overflow, loss.zeroed,
                        loss.imprecise, loss.worst_error, tensor.largest,
                    )
                )  # fmt: skip
        if (int8 := tensor.int8) is not None:
            found["int8"].append(
                TensorRow(
                    tensor.name, tensor.shape, "int8", tensor.numbers, 0, int8.flushed, int8.flushed,
                    int8.channel_worst, tensor.largest,
                )
            )  # fmt: skip
    rows: list[TensorRow] = []
    for name, tensors in found.items():
        tensors.sort(key=lambda row: (-row.overflow, -row.worst_error))
        rows += tensors[: _MOST_INT8 if name == "int8" else _MOST_FLOAT]
    return tuple(rows)


def look_at_layers(checkpoint: Checkpoint, batches: Sequence[Batch], plans: dict[str, Plan]) -> Layers:
    """Activations in float32, and the drift of each layer under each plan; two encoders at a time."""
    ranges = activation_ranges(checkpoint, batches)
    reference = load_encoder(checkpoint, DType.FLOAT32)
    drifts: dict[str, LayerDrifts] = {}
    for name, plan in plans.items():
        try:
            engine = ENGINES[plan.scheme.engine].open(checkpoint, plan)
        except PrecisionError:
            continue  # weights beyond the format, which the scheme's own row tells
        drifts[name] = layer_drift(reference, engine.encoder, batches)
    rows = []
    for here in ranges.layers:
        own = {
            label: layer
            for label, found in drifts.items()
            for layer in found.layers
            if layer.layer == here.layer
        }
        sentence = here.sentence(_FORMATS)
        unsafe = tuple(str(dtype) for dtype in _FORMATS if not here.fits(dtype))
        if unsafe and here.index is None and here.layer != "embeddings":
            sentence += "; modules behind the encoder are computed in float32 whatever the body"
        rows.append(
            LayerRow(
                layer=here.layer,
                index=here.index,
                largest=here.largest,
                where=here.where,
                sentence=sentence,
                unsafe=unsafe,
                drift={label: layer.own_mean for label, layer in own.items()},
                total_drift={label: layer.mean for label, layer in own.items()},
                lost={label: layer.own_lost for label, layer in own.items()},
            )
        )
    return Layers(ranges, drifts, tuple(rows))


def layers_to_keep(
    checkpoint: Checkpoint, layers: Layers, tensors: Sequence[TensorRow], plan: Plan, name: str
) -> tuple[int, ...]:
    """Layers that a plan should compute in float32: that leave the range, else that stand out.

    Empty where there are none, and where that would be all of them.
    """
    kept: set[int] = set()
    if plan.scheme.compute in _FORMATS:
        kept |= {
            layer.index for layer in layers.ranges.unsafe(plan.scheme.compute) if layer.index is not None
        }
        beyond = {row.name for row in tensors if row.overflow and row.format == str(plan.scheme.compute)}
        kept |= _owners(checkpoint, beyond)
    found = layers.drifts.get(name)
    if found is not None:
        kept |= {layer.index for layer in found.layers if layer.own_lost and layer.index is not None}
        if not kept:
            usual = statistics.median_low(layer.own_mean for layer in found.layers)
            kept |= {
                layer.index
                for layer in found.layers
                if layer.index is not None and layer.own_mean > _STANDS_OUT * usual
            }
    if len(kept) >= int(checkpoint.config["num_hidden_layers"]):
        return ()
    return tuple(sorted(kept))


def _owners(checkpoint: Checkpoint, names: set[str]) -> set[int]:
    """Numbers of the layers that these tensors belong to."""
    targets = check_encoder(checkpoint)[1]
    found = (re.match(r"layers\.(\d+)\.", targets[name].parameter) for name in names if name in targets)
    return {int(match[1]) for match in found if match}
