"""The native CPU engine: linear layers by kernels of our own, the rest as torch has it.

float32 is exact: it differs from torch's by the order of sums. float16 multiplies in half precision, adds up
to 64 products there and the rest in float32; a value beyond its range becomes NaN, and its text is computed
again. int8 has unsigned activations with a scale and a zero point for each token, and signed weights with a
scale for every 64 of an output; in int8-fast, for each output. What flows between the layers is float32. The
products of attention are float32's too; in int8-fast they are bfloat16's where the processor multiplies that
(AVX512-BF16).

Packed weights, but a smaller model's in float32, are kept on disk (`weight_cache`) and mapped from there.
"""

from __future__ import annotations

__all__ = ["STATED_DRIFT", "NativeCpu"]

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from tercet.checkpoint.layout import Checkpoint
from tercet.encoders.bert import BertLayer
from tercet.engines import ENGINES, Engine
from tercet.engines.heap import give_back_free_memory
from tercet.engines.mixed import float32_prefixes
from tercet.engines.packed import LinearWeight, PackedEncoder, SingleLinear, lacks_decoders, load_packed
from tercet.engines.probing import CRANFIELD, probe_linear
from tercet.engines.weight_cache import Block, map_blocks, write_blocks
from tercet.errors import CheckpointError, InputError, PrecisionError
from tercet.kernels import attention, matmul
from tercet.kernels.layer_end import Norm, layer_end
from tercet.kernels.matmul import PackedWeight
from tercet.kernels.native import absence, library
from tercet.layers.activation import Activation
from tercet.layers.linear import FeedForward, Product
from tercet.model import check_encoder
from tercet.precision.dtype import DType
from tercet.precision.hardware import Measured
from tercet.precision.plan import Plan
from tercet.precision.scheme import Drift, Scheme

logger = logging.getLogger(__name__)

# The products of an encoder's layer that follow attention, by their paths in it.
_END = ("attention_out", "feed_forward.up", "feed_forward.down")

# float32 weights are laid out anew in moments: only a large model's are kept on disk, so that they stay in a
# file that the system can drop from memory.
_MOST_BYTES_COPIED = 512 << 20

# float16 by kernels that imitate half precision to the bit, which are too slow for all of Cranfield.
_SAMPLE = (
    "all-MiniLM-L6-v2, Cranfield's first 400 documents and the 133 queries that they answer, half precision "
    "imitated on a CPU, torch 2.13.0"
)

STATED_DRIFT: Mapping[str, Drift] = {
    "float32": Drift(0.0, 0.0, "the reference itself"),
    "float16": Drift(1.3e-6, 3.2e-6, _SAMPLE),
    "int8": Drift(3.7e-4, 1.6e-3, CRANFIELD),
    "int8-fast": Drift(1.1e-3, 8.1e-3, CRANFIELD),
}


class NativeCpu(PackedEncoder):
    """An encoder's forward with packed linear layers."""

    def __init__(self, checkpoint: Checkpoint, plan: Plan) -> None:
        label, level = plan.scheme.label, _level(plan)
        packed: dict[str, PackedWeight | None] = {}
        prefixes = float32_prefixes(check_encoder(checkpoint)[0], plan.float32_layers)

        def products(weights: list[LinearWeight]) -> list[Product]:
            packed.update(_packed(checkpoint, weights, label, level))
            packed.update((weight.path, None) for weight in weights if weight.path.startswith(prefixes))
            return [_product(weight, packed[weight.path]) for weight in weights]

        encoder = load_packed(checkpoint, products)
        for path, part in encoder.named_modules():
            if isinstance(part, FeedForward) and part.activation is functional.gelu:
                up, down = packed[f"{path}.up"], packed[f"{path}.down"]
                if up is not None and down is not None:
                    part.product = partial(_feed_forward, up, down)
            elif isinstance(part, BertLayer):
                part.attends_in_bfloat16 = _attends_in_bfloat16(label) and not path.startswith(prefixes)
                out, up, down = (packed[f"{path}.{name}"] for name in _END)
                if part.feed_forward.activation is not functional.gelu:
                    continue
                if out is not None and up is not None and down is not None:
                    part.end = partial(_layer_end, (out, up, down))
        kept = tuple(path for path, weight in packed.items() if weight is None)
        super().__init__(encoder, plan.token_budget, float32_layers=kept)
        beyond = [path for path in kept if not path.startswith(prefixes)]
        if beyond:
            logger.warning(
                "%s: the weights of %d of %d linear layers leave the range of float16 (largest number %g); "
                "these layers are computed in float32: %s",
                checkpoint.name,
                len(beyond),
                len(packed),
                DType.FLOAT16.max,
                ", ".join(beyond),
            )


class _NativeLinear:
    """A linear layer by our kernels."""

    def __init__(self, packed: PackedWeight) -> None:
        self._packed = packed

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        activation: Activation | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """(tokens, in) float32 -> (tokens, out) float32."""
        gelu = activation is functional.gelu
        out = matmul.linear(x, self._packed, bias, gelu=gelu, residual=residual)
        return out if activation is None or gelu else activation(out)


def _feed_forward(
    up: PackedWeight, down: PackedWeight, x: Tensor, up_bias: Tensor, down_bias: Tensor, residual: Tensor
) -> Tensor:
    return matmul.feed_forward(x, up, up_bias, down, down_bias, residual=residual)


def _layer_end(
    weights: tuple[PackedWeight, PackedWeight, PackedWeight],
    layer: BertLayer,
    mixed: Tensor,
    residual: Tensor,
) -> Tensor:
    net, norms = layer.feed_forward, (layer.attention_norm, layer.output_norm)
    biases = (layer.attention_out.bias, net.up.bias, net.down.bias)
    first, second = (Norm(norm.weight, norm.bias, norm.eps) for norm in norms)
    return layer_end(mixed, weights, biases, (first, second), residual=residual)


def _product(weight: LinearWeight, packed: PackedWeight | None) -> Product:
    return SingleLinear(weight.read()) if packed is None else _NativeLinear(packed)


def _packed(
    checkpoint: Checkpoint, weights: list[LinearWeight], label: str, level: str
) -> dict[str, PackedWeight | None]:
    """Layer -> its packed weight: mapped from the cache, where it is written first; None for float32."""
    numbers = sum(out * inner for out, inner in (weight.shape for weight in weights))
    if label == "float32" and 4 * numbers <= _MOST_BYTES_COPIED:
        return {weight.path: _pack(checkpoint, weight, label) for weight in weights}
    key = {
        "weights": checkpoint.weights_hash(),
        "scheme": label,
        "layout": matmul.LAYOUT,
        "endian": sys.byteorder,
    }
    # What is there; else what was just written.
    for _ in range(2):
        found = _restored(map_blocks(key), weights, label, level)
        if found is not None:
            return found
        logger.info("packing %d linear layers of %s, once", len(weights), checkpoint.name)
        blocks = ((weight.path, _block(_pack(checkpoint, weight, label))) for weight in weights)
        if not write_blocks(key, blocks, (5 if label == "float32" else 2) * numbers):
            break
    return {weight.path: _pack(checkpoint, weight, label) for weight in weights}


def _pack(checkpoint: Checkpoint, weight: LinearWeight, label: str) -> PackedWeight | None:
    """The packed weight, None where it leaves the range of float16; only one is unpacked at a time."""
    whole = weight.read(DType.FLOAT16) if label == "float16" and weight.is_half else weight.read()
    low, high = (value.float() for value in torch.aminmax(whole))
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        names = ", ".join(repr(info.name) for info in weight.parts)
        raise CheckpointError(
            f"{checkpoint.folder}: {names} holds a value that is not finite. Fetch the model again."
        )
    beyond = label == "float16" and bool((low < -DType.FLOAT16.max) | (high > DType.FLOAT16.max))
    packed = None if beyond else matmul.pack(whole, label)
    del whole
    give_back_free_memory()
    return packed


def _block(packed: PackedWeight | None) -> Block:
    if packed is None:
        return Block({"float32": True}, torch.empty(0, dtype=torch.uint8))
    shape = [packed.out_features, packed.in_features]
    return Block({"shape": shape, "scheme": packed.scheme}, packed.data)


def _restored(
    blocks: Mapping[str, Block] | None, weights: list[LinearWeight], label: str, level: str
) -> dict[str, PackedWeight | None] | None:
    """The packed weights of the cache, None where it has not all of them, or others than were expected."""
    if blocks is None or blocks.keys() != {weight.path for weight in weights}:
        return None
    found: dict[str, PackedWeight | None] = {}
    for weight in weights:
        block = blocks[weight.path]
        if block.fields == _block(None).fields:
            found[weight.path] = None
            continue
        try:
            packed = PackedWeight(*weight.shape, label, level, block.data)
        except InputError as error:
            logger.warning("%s in the cache cannot be used: %s", weight.path, error)
            return None
        if block.fields != _block(packed).fields:
            return None
        found[weight.path] = packed
    return found


def _level(plan: Plan) -> str:
    """The instruction level that a plan was made for.

    Raises:
        PrecisionError: it does not run here, or a better one would give other bits.
    """
    found = matmul.available(plan.scheme.label)
    if found is None:
        raise PrecisionError(
            f"the plan runs {plan.scheme}, which does not run here: {_failure(plan.scheme)}. "
            "Make the plan anew."
        )
    if plan.kernel not in (None, _kernel(plan.scheme.label, found)):
        raise PrecisionError(
            f"the plan runs {plan.scheme} by kernels for {plan.kernel}; here they are for "
            f"{_kernel(plan.scheme.label, found)}. Make the plan anew."
        )
    return found


def _kernel(label: str, level: str) -> str:
    """What computes a scheme, by its levels."""
    return f"{level} (attention in bfloat16)" if _attends_in_bfloat16(label) else level


def _attends_in_bfloat16(label: str) -> bool:
    return label == "int8-fast" and attention.multiplies_bfloat16()


class _Kind:
    name = "native_cpu"
    # A text gets the same bits whatever it is computed beside.
    batch_invariant = True

    def schemes(self, device: str) -> Sequence[Scheme]:
        """float32, float16, and int8 in two kinds, on a CPU."""
        if device != "cpu":
            return []
        single, half = DType.FLOAT32, DType.FLOAT16
        return [
            Scheme(single, single, None, self.name),
            Scheme(half, half, None, self.name, None, single),
            Scheme(DType.INT8, single, 64, self.name, None, single),
            Scheme(DType.INT8, single, None, self.name, "int8-fast", single),
        ]

    def probe(self, device: str, schemes: Sequence[Scheme]) -> Mapping[Scheme, Measured]:
        """Products timed against float32's."""
        measured = {
            scheme: Measured(None, None, None, failure, STATED_DRIFT.get(scheme.label))
            for scheme in schemes
            if (failure := _failure(scheme)) is not None
        }
        levels = {scheme: matmul.available(scheme.label) for scheme in schemes}
        running = {scheme: level for scheme, level in levels.items() if level is not None}
        if running:
            measured |= probe_linear(
                {scheme: partial(_packed_product, scheme.label) for scheme in running},
                drifts={scheme: STATED_DRIFT[scheme.label] for scheme in running},
                kernels={scheme: _kernel(scheme.label, level) for scheme, level in running.items()},
                native={scheme: level != "scalar" for scheme, level in running.items()},
            )
        return {scheme: replace(measured[scheme], keeps_memory=True) for scheme in schemes}

    def lacks(self, architecture: str) -> str | None:
        """Decoders."""
        return lacks_decoders(architecture)

    def open(self, checkpoint: Checkpoint, plan: Plan) -> Engine:
        """The body with its linear layers packed."""
        return NativeCpu(checkpoint, plan)


def _packed_product(label: str, weight: Tensor) -> Product:
    return _NativeLinear(matmul.pack(weight, label))


def _failure(scheme: Scheme) -> str | None:
    """Why a scheme does not run here; None where it does."""
    here = library()
    if here is None:
        return f"no native kernels: {absence()}"
    if matmul.available(scheme.label) is None:
        wanted = "no AVX512-FP16 (or Arm FP16) on" if scheme.dtype is DType.FLOAT16 else "no kernel for"
        return f"{wanted} this processor (the best instructions that it has: {here.level})"
    return None


ENGINES.register("native_cpu")(_Kind())
