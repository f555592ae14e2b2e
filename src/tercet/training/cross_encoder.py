"""A reranker that is trained: pairs of texts -> logits with gradients; its folder loads in the peers, too."""

from __future__ import annotations

__all__ = ["TrainableReranker", "open_trainable_reranker", "save_reranker"]

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.batch import Batch
from tercet.checkpoint.contents import Checkpoint
from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.reranker_files import is_reranker, open_reranker
from tercet.checkpoint.source import find
from tercet.checkpoint.writer import save_checkpoint, write_aside
from tercet.errors import CheckpointError
from tercet.modules import MODULES
from tercet.modules.classification import Classification
from tercet.precision.dtype import DType
from tercet.text.pairs import PairEncoder, Truncation, takes_types
from tercet.text.tokenizer import Tokenizer
from tercet.training.body import (
    body_tensors,
    dropout_part,
    hidden_states,
    open_body,
    own_weights,
    warn_of_narrow_weights,
)
from tercet.training.new_reranker import write_new_reranker
from tercet.training.outputs import Outputs
from tercet.training.recipe import LoraRecipe
from tercet.training.saving import TrainedTensors

# The head's tensors -> its parameters.
_HEAD = {
    "dense.weight": "dense_weight",
    "dense.bias": "dense_bias",
    "out.weight": "weight",
    "out.bias": "bias",
}


class TrainableReranker(nn.Module):
    """Packed pairs -> their logits in float32, as dense outputs of width 1.

    Attributes:
        checkpoint: what it was made of.
        tokenizer: the checkpoint's.
        encoder, head: with float32 weights of their own.
        checkpointing: activations of layers are computed twice instead of kept.
        freezes: the encoder learns nothing.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        seed: int,
        dropout: float | None,
        checkpointing: bool,
        freeze_body: bool,
        freeze_embeddings: bool,
        lora: LoraRecipe | None,
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
        [self._spec] = checkpoint.modules
        width = int(checkpoint.config["hidden_size"])
        head = MODULES["classification"](
            self._spec, width, lambda name: checkpoint.read(self._spec.tensors[name], DType.FLOAT32)
        )
        self.head = cast(Classification, head)
        own_weights(self.head)
        self.head.requires_grad_(True)
        # transformers drops before the last layer, and but for two before the one in front of it, too.
        names = ("seq_classif_dropout", "classifier_dropout", "hidden_dropout_prob", "dropout")
        self._head_dropout = dropout_part(checkpoint.config, dropout, *names)
        self._drops_first = checkpoint.architecture not in ("bert", "distilbert")
        self._pairs = PairEncoder(self.tokenizer, str(checkpoint.folder))
        self._typed = self._pairs.has_types and takes_types(checkpoint)

    def forward(self, batch: Batch, outputs: tuple[str, ...] | None = None) -> Outputs:
        """(pairs, 1) logits; `outputs` is an embedder's affair."""
        hidden = hidden_states(
            self.encoder,
            batch,
            dropout=self._embedding_dropout,
            checkpointing=self.checkpointing,
            freezes=self.freezes,
        )
        with torch.autocast(hidden.device.type, enabled=False):
            first = hidden[batch.cu_seqlens[:-1].long()].float()
            if self._drops_first:
                first = self._dropped(first)
            head = self.head
            mixed = head.activation(functional.linear(first, head.dense_weight, head.dense_bias))
            return Outputs(dense=functional.linear(self._dropped(mixed), head.weight, head.bias))

    def batch(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        max_length: int,
        truncation: Truncation = "longest_first",
        query_max_length: int | None = None,
    ) -> Batch:
        """The pairs' tokens on the CPU, cut as a loaded reranker cuts them.

        Raises:
            InputError: `max_length` leaves no room for a token of each text.
        """
        encoded = self._pairs.encode(
            pairs, max_length=max_length, truncation=truncation, query_max_length=query_max_length
        )
        return encoded.batch(slice(None), types=self._typed)

    def named_tensors(self) -> Iterator[tuple[TensorInfo, Tensor]]:
        """Tensors of the checkpoint that may have been trained."""
        yield from body_tensors(self.encoder, self.checkpoint)
        for name, attribute in _HEAD.items():
            yield self._spec.tensors[name], getattr(self.head, attribute)

    def head_parameters(self) -> list[nn.Parameter]:
        """What learns outside the encoder."""
        return list(self.head.parameters())

    def _dropped(self, values: Tensor) -> Tensor:
        return functional.dropout(values, self._head_dropout, self.training)


def open_trainable_reranker(
    model: str | Path,
    *,
    revision: str | None = None,
    seed: int = 0,
    dropout: float | None = None,
    gradient_checkpointing: bool = False,
    freeze_body: bool = False,
    freeze_embeddings: bool = False,
    lora: LoraRecipe | None = None,
) -> TrainableReranker:
    """A reranker to train, on the CPU, in training mode; of an encoder without a head one with a new head.

    Args:
        model: a folder, a hub id, or minilm.
        revision: on the hub.
        seed: of a new head, and of adapters.
        dropout: everywhere; None for what config.json says.
        gradient_checkpointing: activations of layers are computed twice instead of kept.
        freeze_body: only the head learns.
        freeze_embeddings: the encoder's tables learn nothing.
        lora: adapters learn in place of the encoder's weights.

    Raises:
        CheckpointError: damaged, or of a kind that cannot be trained here.
    """
    source = find(model, revision=revision)
    scratch = None if is_reranker(source) else Path(tempfile.mkdtemp(prefix="tercet-"))
    try:
        folder = None if scratch is None else write_new_reranker(source, scratch / "reranker", seed)
        checkpoint = open_reranker(source if folder is None else folder)
        checkpoint = replace(checkpoint, name=source.name)
        if scratch is None:
            _refuse(checkpoint)
            warn_of_narrow_weights(checkpoint)
        made = TrainableReranker(
            checkpoint,
            seed=seed,
            dropout=dropout,
            checkpointing=gradient_checkpointing,
            freeze_body=freeze_body,
            freeze_embeddings=freeze_embeddings,
            lora=lora,
        )
    except BaseException:
        if scratch is not None:
            shutil.rmtree(scratch)
        raise
    if scratch is not None:
        # It goes when the model does: settings and tokenizer are copied from it when the model is saved.
        weakref.finalize(made, shutil.rmtree, scratch, ignore_errors=True)
    checkpoint.close()
    return made.train()


def save_reranker(model: TrainableReranker, folder: str | Path, dtype: DType, *, card: str) -> Path:
    """The folder, now holding weights, tokenizer, settings and card; written aside, then renamed.

    Raises:
        OutputError: the folder is not empty, or cannot be written; nothing is left half-written.
        PrecisionError: a weight becomes infinite in `dtype`.
    """
    folder = Path(folder)
    trained = replace(model.checkpoint, _reader=TrainedTensors(model.checkpoint, model))
    with write_aside(folder) as aside:
        save_checkpoint(trained, aside, dtype)
        (aside / "README.md").write_text(card, encoding="utf-8")
    return folder


def _refuse(checkpoint: Checkpoint) -> None:
    """An error for what has no gradients here."""
    if [spec.kind for spec in checkpoint.modules] != ["classification"]:
        raise CheckpointError(
            f"{checkpoint.name} cannot be trained: its scores come from a stack of modules. Rerankers with a "
            "classification head can; train this one with sentence-transformers."
        )
    if (labels := checkpoint.modules[0].config["labels"]) != 1:
        raise CheckpointError(
            f"{checkpoint.name} cannot be trained: it gives {labels} scores a pair, and losses of rerankers "
            "are of one. Start from its encoder, or from a reranker of one score."
        )
