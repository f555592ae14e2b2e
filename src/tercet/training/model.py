"""The model that is trained: an encoder and heads with float32 weights of their own, and their gradients."""

from __future__ import annotations

__all__ = ["Trainable", "open_trainable"]

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.batch import Batch
from tercet.checkpoint.decoder_files import DECODERS
from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.layout import Checkpoint, ModuleSpec, open_checkpoint
from tercet.checkpoint.source import find
from tercet.embeddings import MultiVectors
from tercet.errors import CheckpointError, InputError
from tercet.heads import Heads
from tercet.modules.colbert_linear import ColbertLinear
from tercet.modules.dense_layer import Dense
from tercet.modules.layer_norm import LayerNorm
from tercet.modules.sparse_linear import SparseLinear
from tercet.precision.dtype import DType
from tercet.text.tokenizer import Tokenizer
from tercet.training.body import (
    body_tensors,
    hidden_states,
    open_body,
    own_weights,
    warn_of_narrow_weights,
)
from tercet.training.ending import with_ending
from tercet.training.outputs import Outputs
from tercet.training.recipe import HeadRecipe, LoraRecipe
from tercet.training.sparse_scores import pool_tokens

# Tensors of modules behind the pooling that are trained, too: name in the module's file -> parameter.
_TRAINED = {
    "dense": {"linear.weight": "matrix", "linear.bias": "bias", "residual.weight": "residual"},
    "layer_norm": {"norm.weight": "scale", "norm.bias": "shift"},
}


class Trainable(nn.Module):
    """Packed tokens -> the outputs that losses compare, in float32, with gradients.

    Attributes:
        checkpoint: what it was made of.
        tokenizer: the checkpoint's.
        encoder, heads: with float32 weights of their own, whatever the files have.
        outputs: of dense, sparse and multivector, what a call makes.
        checkpointing: activations of layers are computed twice instead of kept.
        freezes: the encoder learns nothing.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        heads: HeadRecipe,
        outputs: tuple[str, ...] | None,
        seed: int,
        dropout: float | None,
        checkpointing: bool,
        freeze_body: bool,
        freeze_embeddings: bool,
        lora: LoraRecipe | None = None,
    ) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.tokenizer = Tokenizer.open(checkpoint)
        self.checkpointing = checkpointing
        self.freezes = freeze_body
        self.encoder, self._embedding_dropout = open_body(
            checkpoint,
            dropout=dropout,
            freezes=freeze_body,
            freezes_embeddings=freeze_embeddings,
            lora=lora,
            seed=seed,
        )
        self.heads = Heads.open(checkpoint, DType.FLOAT32, self.tokenizer.special_ids)
        self._add_heads(heads, seed)
        own_weights(self.heads)
        self.outputs = self.heads.outputs if outputs is None else outputs
        if missing := [name for name in self.outputs if name not in self.heads.outputs]:
            raise InputError(
                f"A loss compares {' and '.join(missing)} outputs, and {checkpoint.name} has no such head. "
                "Ask for one under `heads` in the recipe, or leave that loss out."
            )
        for name, _, parameter in self._trained_modules():
            parameter.requires_grad_("dense" in self.outputs)
            assert name
        for output, head in (("sparse", self.heads.sparse), ("multivector", self.heads.multivector)):
            if head is not None:
                head.requires_grad_(output in self.outputs)

    def forward(self, batch: Batch, outputs: tuple[str, ...] | None = None) -> Outputs:
        """The outputs of packed texts, or some of them; float32, also where the encoder's are narrower."""
        wanted = self.outputs if outputs is None else outputs
        hidden = hidden_states(
            self.encoder,
            batch,
            dropout=self._embedding_dropout,
            checkpointing=self.checkpointing,
            freezes=self.freezes,
        )
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            dense = self._dense(hidden, batch) if "dense" in wanted else None
            sparse = multivector = None
            if "sparse" in wanted:
                head = cast(SparseLinear, self.heads.sparse)
                weights = functional.linear(hidden, head.matrix, head.bias)[:, 0].relu()
                sparse = pool_tokens(
                    batch.token_ids,
                    weights,
                    batch.cu_seqlens,
                    vocabulary=self.heads.vocabulary,
                    special_ids=cast(Tensor, self.heads.special_ids),
                )
            if "multivector" in wanted:
                late = cast(ColbertLinear, self.heads.multivector)
                found = late(hidden, batch, normalize=False)
                multivector = MultiVectors(functional.normalize(found.vectors, dim=1), found.offsets)
        return Outputs(dense, sparse, multivector)

    def named_tensors(self) -> Iterator[tuple[TensorInfo, Tensor]]:
        """Tensors of the checkpoint that may have been trained, but for heads in files of their own."""
        yield from body_tensors(self.encoder, self.checkpoint)
        for spec, name, parameter in self._trained_modules():
            yield spec.tensors[name], parameter

    def head_tensors(self) -> Mapping[str, dict[str, Tensor]]:
        """File -> name -> values, of the heads that BGE-M3 keeps in files of their own."""
        found = {}
        for file, head in (
            ("sparse_linear.pt", self.heads.sparse),
            ("colbert_linear.pt", self.heads.multivector),
        ):
            if isinstance(head, SparseLinear | ColbertLinear):
                found[file] = {"weight": head.matrix.detach(), "bias": head.bias.detach()}
        return found

    def head_parameters(self) -> list[nn.Parameter]:
        """What learns outside the encoder."""
        return [parameter for parameter in self.heads.parameters() if parameter.requires_grad]

    def _dense(self, hidden: Tensor, batch: Batch) -> Tensor:
        chain = self.heads.chain
        assert chain is not None
        vectors: Tensor = chain(hidden, batch, torch.float32)
        cut = self.checkpoint.truncate_dim
        shortened = cut is not None and cut < vectors.shape[1]
        vectors = vectors[:, :cut] if shortened else vectors
        return functional.normalize(vectors, dim=1) if chain.normalizes or shortened else vectors

    def _add_heads(self, wanted: HeadRecipe, seed: int) -> None:
        """Random heads where the checkpoint has none, as torch.nn.Linear begins."""
        width = int(self.checkpoint.config["hidden_size"])
        generator = torch.Generator().manual_seed(seed)

        def drawn(rows: int) -> tuple[Tensor, Tensor]:
            bound = width**-0.5
            matrix = torch.empty(rows, width).uniform_(-bound, bound, generator=generator)
            return matrix, torch.empty(rows).uniform_(-bound, bound, generator=generator)

        if wanted.sparse and self.heads.sparse is None:
            self.heads.usual.sparse = SparseLinear(*drawn(1))
        if wanted.multivector is not None:
            late = self.heads.multivector
            if late is None:
                self.heads.multivector = ColbertLinear(*drawn(wanted.multivector))
            elif late.out_width != wanted.multivector:
                raise InputError(
                    f"heads.multivector is {wanted.multivector}, and {self.checkpoint.name} has a head of "
                    f"{late.out_width} already. Say that, or leave it out."
                )

    def _trained_modules(self) -> Iterator[tuple[ModuleSpec, str, nn.Parameter]]:
        """Each tensor behind the pooling that is trained: its module, its name there, and its values."""
        chain = self.heads.chain
        if chain is None:
            return
        specs = [spec for spec in self.checkpoint.modules if spec.kind in _TRAINED]
        modules = [module for module in chain.tail if isinstance(module, Dense | LayerNorm)]
        for spec, module in zip(specs, modules, strict=True):
            for name, attribute in _TRAINED[spec.kind].items():
                if name in spec.tensors:
                    yield spec, name, getattr(module, attribute)


def open_trainable(
    model: str | Path,
    *,
    revision: str | None = None,
    pooling: str | None = None,
    normalize: bool | None = None,
    include_prompt: bool | None = None,
    heads: HeadRecipe | None = None,
    outputs: tuple[str, ...] | None = None,
    seed: int = 0,
    dropout: float | None = None,
    gradient_checkpointing: bool = False,
    freeze_body: bool = False,
    freeze_embeddings: bool = False,
    lora: LoraRecipe | None = None,
) -> Trainable:
    """A model to train, on the CPU, in training mode.

    Args:
        model: a folder, a hub id, or minilm.
        revision: on the hub.
        pooling: in place of the checkpoint's own.
        normalize: whether dense vectors have unit length; None for what the checkpoint says.
        include_prompt: whether a prompt's tokens are pooled; None for what the checkpoint says.
        heads: that are added where they are missing.
        outputs: what losses compare; all that it makes by default.
        seed: of new heads.
        dropout: everywhere; None for what config.json says.
        gradient_checkpointing: activations of layers are computed twice instead of kept.
        freeze_body: only what stands behind the encoder learns.
        freeze_embeddings: the encoder's tables learn nothing.
        lora: adapters learn in place of the encoder's weights.

    Raises:
        CheckpointError: damaged, or of a kind that cannot be trained here.
        InputError: an output without a head, or an ending that no folder can say.
    """
    checkpoint = open_checkpoint(find(model, revision=revision), pooling=pooling)
    _refuse(checkpoint)
    checkpoint = with_ending(checkpoint, normalize=normalize, include_prompt=include_prompt)
    warn_of_narrow_weights(checkpoint)
    made = Trainable(
        checkpoint,
        heads=heads or HeadRecipe(),
        outputs=outputs,
        seed=seed,
        dropout=dropout,
        checkpointing=gradient_checkpointing,
        freeze_body=freeze_body,
        freeze_embeddings=freeze_embeddings,
        lora=lora,
    )
    checkpoint.close()
    return made.train()


def _refuse(checkpoint: Checkpoint) -> None:
    """An error for what has no gradients here."""
    kinds = [spec.kind for spec in checkpoint.modules if spec.kind == "splade_pooling"]
    reason = None
    if checkpoint.routes is not None:
        reason = "it has routes"
    elif kinds or "dense" not in checkpoint.outputs:
        reason = "it has no dense vectors"
    elif not int(checkpoint.config["num_hidden_layers"]):
        reason = "it is a table without layers"
    elif checkpoint.architecture in DECODERS:
        reason = "it is a decoder"
    if reason is not None:
        raise CheckpointError(
            f"{checkpoint.name} cannot be trained: {reason}. Encoders with dense, sparse_linear and "
            "colbert_linear heads can; train this one with sentence-transformers."
        )
