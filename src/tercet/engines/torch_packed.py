"""The portable engine: torch on packed tokens; CPU, CUDA, MPS.

float64, float32, bfloat16, float16; on CUDA TF32 and float8 by wish, small batches by captured graphs.
"""

from __future__ import annotations

__all__ = ["TorchPacked", "rounded"]

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.batch import Batch
from tercet.checkpoint.layout import Checkpoint
from tercet.encoders import Encoder
from tercet.engines import ENGINES, Engine
from tercet.engines.graphs import Graphs
from tercet.engines.heap import give_back_free_memory
from tercet.engines.mixed import check_layers, float32_prefixes, linear_layers, widen
from tercet.engines.probing import PRODUCTS, probe_torch
from tercet.engines.tensor_cores import FLOAT8, TF32, probe_tensor_cores, schemes_of_tensor_cores
from tercet.engines.tf32 import exact_products, tf32_products
from tercet.engines.transfer import transfers
from tercet.errors import PrecisionError, nearest
from tercet.layers.float8 import use_float8
from tercet.layers.linear import Linear, pack_for_onednn, set_product
from tercet.model import load_encoder
from tercet.precision.dtype import DType
from tercet.precision.hardware import Measured
from tercet.precision.plan import Plan
from tercet.precision.scheme import Scheme

logger = logging.getLogger(__name__)

_BATCHES_BETWEEN_TRIMS = 16
# Weights of layers that could stay mapped from their file are fused and packed, which copies them, only where
# all of them together are smaller: a short text takes two thirds of the time, but what was a file becomes the
# process's own memory.
_MOST_MAPPED_BYTES_COPIED = 512 << 20


class TorchPacked:
    """An encoder's forward in torch.

    Attributes:
        device: where it runs.
        graphs: what small batches take on CUDA; None, and every batch runs eagerly.
        float32_layers: linear layers of the encoder layers that the plan keeps in float32; of others a
            checkpoint whose weights leave the range of the plan's format is refused.
    """

    def __init__(self, checkpoint: Checkpoint, plan: Plan) -> None:
        self.device = torch.device(plan.device)
        kernel = plan.kernel or "torch"
        if kernel not in PRODUCTS:
            raise PrecisionError(
                f"the plan's kernel {kernel!r} is none of torch_packed. {nearest(kernel, PRODUCTS)} "
                "Make the plan anew."
            )
        compute = plan.precision.compute
        # A large model that needs no cast stays in its file altogether, where the kernel can drop it again.
        mapped = self.device.type == "cpu" and _mapped_bytes(checkpoint, compute) > _MOST_MAPPED_BYTES_COPIED
        kept = plan.float32_layers
        if kept and (plan.scheme.variant is not None or plan.scheme.dtype is DType.FLOAT8):
            raise PrecisionError(
                f"the plan keeps layers {', '.join(map(str, kept))} in float32; {plan.scheme} cannot. "
                "Make the plan anew."
            )
        check_layers(kept, int(checkpoint.config["num_hidden_layers"]), "the plan")
        encoder = load_encoder(checkpoint, compute, fused=not mapped, float32_layers=kept)
        self.float32_layers = linear_layers(encoder, float32_prefixes(encoder, kept))
        set_product(encoder, PRODUCTS[kernel])
        if plan.scheme == FLOAT8:
            # Before the rest is moved: the device never holds all weights in bfloat16.
            _quantise(encoder, self.device)
        self._encoder = encoder.to(self.device)
        if kernel == "onednn" and not mapped:
            _pack(self._encoder, checkpoint, compute)
        widen(self._encoder, kept, compute.torch)
        # oneDNN compiles a product for each number of rows and keeps what it compiled, between the results in
        # the heap: without rounding, a corpus of mixed lengths makes a process grow by gigabytes.
        compiles = kernel == "onednn" or plan.precision.compute.bytes < 4
        self._rounds = compiles and self.device.type == "cpu"
        self._trim_after = _BATCHES_BETWEEN_TRIMS * plan.token_budget if self.device.type == "cpu" else None
        self._tokens_since_trim = 0
        on_cuda = self.device.type == "cuda"
        self._transfers = transfers(self.device)
        self.graphs: Graphs | None = Graphs(self._compute, self.device) if on_cuda else None
        # float32 on CUDA is never computed while another engine of ours has TF32 allowed.
        exact = exact_products if on_cuda and plan.scheme.dtype is DType.FLOAT32 else nullcontext
        self._products = tf32_products if plan.scheme == TF32 else exact

    @property
    def encoder(self) -> nn.Module:
        """The encoder on its device."""
        return self._encoder

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden) of the last layer."""
        tokens = batch.num_tokens
        if self._rounds:
            batch = _extended(batch, rounded(tokens) - tokens)
        with torch.inference_mode():
            hidden = None if self.graphs is None else self.graphs.run(batch)
            if hidden is None:
                hidden = self._compute(self._transfers.send(batch))
        if self._trim_after is not None:
            self._tokens_since_trim += tokens
            if self._tokens_since_trim > self._trim_after:
                self._tokens_since_trim = 0
                give_back_free_memory()
        return hidden[:tokens]

    def _compute(self, batch: Batch) -> Tensor:
        """(tokens, hidden) of a batch on the device; when this is done, the device may still compute."""
        with self._products():
            hidden: Tensor = self._encoder(batch)
        return hidden


def _quantise(encoder: nn.Module, device: torch.device) -> None:
    """Linear layers in float8, and a line about those that are not."""
    count, kept = use_float8(encoder, device=device)
    if kept:
        logger.info(
            "%d of %d linear layers stay in bfloat16, since a size of theirs is no multiple of 16: %s",
            len(kept),
            count + len(kept),
            ", ".join(kept),
        )


def _mapped_bytes(checkpoint: Checkpoint, dtype: DType) -> int:
    """Bytes of the layers' weights that can be used as they lie in the file."""
    if checkpoint.file_format == "torch-legacy":
        return 0
    return sum(
        info.num_bytes
        for name, info in checkpoint.tensors.items()
        if info.dtype == str(dtype) and (".layer." in name or name.startswith("layers."))
    )


def _pack(module: nn.Module, checkpoint: Checkpoint, dtype: DType) -> None:
    """Lay the weights of linear layers out as oneDNN reads them, one at a time."""
    sources = {
        target.parameter: checkpoint.tensors[name]
        for name, target in cast(Encoder, module).names().items()
        if target.first_row is None and checkpoint.tensors[name].dtype == str(dtype)
    }
    for path, layer in module.named_modules():
        if isinstance(layer, Linear):
            layer.weight = nn.Parameter(pack_for_onednn(layer.weight), requires_grad=False)
            if (source := sources.get(f"{path}.weight")) is not None:
                checkpoint.release(source)
            # What was packed leaves a hole that the next weight may not fit.
            give_back_free_memory()


def rounded(tokens: int) -> int:
    """The next number of rows that products are done with: at most 7 rows or a sixteenth more.

    Of a short text every row counts: below 16 rows at most one is added, below 32 three.
    """
    size = 1 << max(tokens, 1).bit_length() - 1  # the power of two that is not above it
    step = max(2, min(8, size // 4), size // 16)
    return -(-tokens // step) * step


def _extended(batch: Batch, rows: int) -> Batch:
    """The batch with rows behind its texts that belong to none of them."""
    if rows == 0:
        return batch
    token_ids, position_ids = (
        functional.pad(ids, (0, rows)) for ids in (batch.token_ids, batch.position_ids)
    )
    types = batch.token_type_ids
    types = None if types is None else functional.pad(types, (0, rows))
    return Batch(token_ids, position_ids, batch.cu_seqlens, batch.lengths, types, batch.attended)


class _Kind:
    name = "torch_packed"

    def schemes(self, device: str) -> Sequence[Scheme]:
        """One scheme a floating-point format; products of half formats are accumulated in float32."""
        wide = [Scheme(dtype, dtype, None, self.name) for dtype in (DType.FLOAT64, DType.FLOAT32)]
        half = [Scheme(dtype, DType.FLOAT32, None, self.name) for dtype in (DType.BFLOAT16, DType.FLOAT16)]
        return wide + half + schemes_of_tensor_cores(device)

    def probe(self, device: str, schemes: Sequence[Scheme]) -> Mapping[Scheme, Measured]:
        """Operations tried and matrix products timed."""
        beyond = [scheme for scheme in schemes if scheme in (TF32, FLOAT8)]
        plain = probe_torch(device, [scheme for scheme in schemes if scheme not in beyond])
        return plain | probe_tensor_cores(device, beyond)

    def lacks(self, architecture: str) -> str | None:
        """Nothing: an encoder's own file has its forward."""
        return None

    def open(self, checkpoint: Checkpoint, plan: Plan) -> Engine:
        """The body in torch."""
        return TorchPacked(checkpoint, plan)


ENGINES.register("torch_packed")(_Kind())
