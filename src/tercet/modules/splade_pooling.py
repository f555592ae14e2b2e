"""SPLADE: a masked-language head's numbers of the vocabulary, pooled over the tokens of a text."""

from __future__ import annotations

__all__ = ["SpladePooling", "pool_at_once", "pool_by_text"]

from bisect import bisect_right
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.batch import Batch
from tercet.checkpoint.layout import ModuleSpec
from tercet.embeddings import SparseVectors
from tercet.layers.activation import encoder_activation
from tercet.modules import MODULES, Read, weight
from tercet.precision.footprint import SPLADE_COLUMNS, SPLADE_ROWS


class SpladePooling(nn.Module):
    """log(1 + relu(logits)), its maximum or sum over the tokens (Formal et al. 2021; "max" is SPLADE v2's).

    Special tokens count as others do. Beside its result it holds the hidden vectors once in the head's dtype,
    a block of `rows` x `columns` numbers, `columns` rows of the word matrix in that dtype, and (texts,
    `columns`): never a number for each token and word. The word matrix stays as stored, on a CPU mapped from
    the file.

    Args:
        dense: weight (inner, hidden) and bias (inner,) of the head's first layer; inner is hidden, or less.
        norm: weight and bias (inner,) of the layer normalisation behind it.
        matrix: (vocabulary, inner) in any float dtype.
        bias: (vocabulary,) in the head's dtype.
        activation: between the first layer and the normalisation, by config.json's name.
        epsilon: of the normalisation.
        strategy: "max" or "sum" over a text's tokens.
        logs: how often log(1 + x) is taken: 2 for "log1p_relu" (Shen et al. 2025), 1 else.
        rows, columns: tokens and words of a block.
        where: for errors.
    """

    def __init__(
        self,
        dense: tuple[Tensor, Tensor],
        norm: tuple[Tensor, Tensor],
        matrix: Tensor,
        bias: Tensor,
        *,
        activation: str = "gelu",
        epsilon: float = 1e-12,
        strategy: str = "max",
        logs: int = 1,
        rows: int = SPLADE_ROWS,
        columns: int = SPLADE_COLUMNS,
        where: str = "SpladePooling",
    ) -> None:
        super().__init__()
        assert strategy in ("max", "sum"), strategy
        assert logs in (1, 2), logs
        self.dense_weight, self.dense_bias = (nn.Parameter(t, requires_grad=False) for t in dense)
        self.norm_weight, self.norm_bias = (nn.Parameter(t, requires_grad=False) for t in norm)
        self.matrix = nn.Parameter(matrix, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.activation = encoder_activation(activation, where)
        self.epsilon = epsilon
        self.strategy = strategy
        self.logs = logs
        self.rows, self.columns = rows, columns

    @property
    def vocabulary(self) -> int:
        """Columns of the sparse vectors."""
        return len(self.matrix)

    def forward(self, hidden: Tensor, batch: Batch) -> SparseVectors:
        """The weight of every word that has one, in the head's dtype.

        Args:
            hidden: (tokens, hidden) in any float dtype.
            batch: where each text lies, on the same device.
        """
        inner = self._transformed(hidden)
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for first in range(0, self.vocabulary, self.columns):
            pooled = self._pooled(inner, batch, first)
            # Not equal to zero, rather than above it: so a NaN is kept, and seen when results are checked.
            texts, words = (pooled != 0).nonzero(as_tuple=True)
            parts.append((texts, words + first, pooled[texts, words]))
        texts, words, weights = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        order = torch.argsort(texts, stable=True)
        counts = torch.bincount(texts, minlength=len(batch))
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return SparseVectors(words[order], weights[order], offsets, self.vocabulary)

    def _transformed(self, hidden: Tensor) -> Tensor:
        """(tokens, inner) before the word matrix, in the head's dtype."""
        width = len(self.dense_weight)
        inner = torch.empty(len(hidden), width, dtype=self.bias.dtype, device=hidden.device)
        for start in range(0, len(hidden), self.rows):
            rows = hidden[start : start + self.rows].to(inner.dtype)
            rows = self.activation(functional.linear(rows, self.dense_weight, self.dense_bias))
            inner[start : start + self.rows] = functional.layer_norm(
                rows, (width,), self.norm_weight, self.norm_bias, self.epsilon
            )
        return inner

    def _pooled(self, inner: Tensor, batch: Batch, first: int) -> Tensor:
        """(texts, columns) weights of the words from `first` on."""
        pool = pool_by_text if inner.is_cpu else pool_at_once
        matrix = self.matrix[first : first + self.columns].to(inner.dtype)
        bias = self.bias[first : first + self.columns]
        pooled = inner.new_zeros(len(batch), len(bias))  # relu leaves nothing below zero
        for start in range(0, len(inner), self.rows):
            logits = torch.addmm(bias, inner[start : start + self.rows], matrix.T)
            if self.strategy == "sum":
                logits = self._log1p(logits.relu_())
            pool(pooled, logits, batch, start, self.strategy)
        # A logarithm keeps the order, so the maximum is taken before it.
        return pooled if self.strategy == "sum" else self._log1p(pooled)

    def _log1p(self, values: Tensor) -> Tensor:
        for _ in range(self.logs):
            values = values.log1p_()
        return values


def pool_by_text(pooled: Tensor, values: Tensor, batch: Batch, start: int, strategy: str) -> None:
    """Put a block of tokens into their texts' rows, one text after the other: for a CPU.

    Args:
        pooled: (texts, columns), changed in place.
        values: (rows, columns) of the tokens from `start` on.
        batch: where each text lies.
        start: the first of these tokens.
        strategy: "max" or "sum".
    """
    offsets = [0, *accumulate(batch.lengths)]
    stop = start + len(values)
    for text in range(bisect_right(offsets, start) - 1, len(batch)):
        if offsets[text] >= stop:
            break
        rows = values[max(offsets[text], start) - start : min(offsets[text + 1], stop) - start]
        if strategy == "sum":
            pooled[text] += rows.sum(0)
        elif len(rows):
            torch.maximum(pooled[text], rows.amax(0), out=pooled[text])


def pool_at_once(pooled: Tensor, values: Tensor, batch: Batch, start: int, strategy: str) -> None:
    """`pool_by_text` in one operation for all texts: for devices that are slow to start one."""
    texts = torch.arange(len(batch), device=values.device)
    lengths = batch.cu_seqlens.diff().long()
    tokens = torch.repeat_interleave(texts, lengths, output_size=len(batch.token_ids))
    text = tokens[start : start + len(values)]
    if strategy == "sum":
        pooled.index_add_(0, text, values)
    else:
        pooled.scatter_reduce_(0, text[:, None].expand_as(values), values, "amax")


@MODULES.register("splade_pooling")
def splade_pooling(spec: ModuleSpec, width: int, read: Read) -> SpladePooling:
    """SPLADE's pooling with the checkpoint's masked-language head."""
    config = spec.config
    rows = SPLADE_ROWS if config["chunk_size"] is None else min(SPLADE_ROWS, config["chunk_size"])
    dense = weight(spec, "dense.weight", (None, width), read)
    inner = len(dense)
    return SpladePooling(
        (dense, weight(spec, "dense.bias", (inner,), read)),
        (weight(spec, "norm.weight", (inner,), read), weight(spec, "norm.bias", (inner,), read)),
        weight(spec, "decoder.weight", (None, inner), read),
        weight(spec, "decoder.bias", (None,), read),
        activation=config["hidden_act"],
        epsilon=config["layer_norm_eps"],
        strategy=config["pooling_strategy"],
        logs=2 if config["activation_function"] == "log1p_relu" else 1,
        rows=rows,
        where=spec.where,
    )
