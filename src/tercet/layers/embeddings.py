"""What enters the layers of an encoder with learned positions: rows of tables, summed and normalised."""

from __future__ import annotations

__all__ = ["embedded"]

import torch
from torch import Tensor
from torch.nn import functional

from tercet.batch import Batch
from tercet.kernels import embeddings as native
from tercet.layers.calling import direct
from tercet.layers.norm import LayerNorm


def embedded(
    batch: Batch,
    word: Tensor,
    position: Tensor,
    token_type: Tensor | None,
    norm: LayerNorm,
    *,
    first_position: int,
) -> Tensor:
    """norm(word + position + token type), by our kernel or torch's; the same bits.

    Args:
        word, position, token_type: the tables, (rows, width); they may be stored narrower than `norm`.
        first_position: the row of the position table that a text's first token takes.

    Returns:
        (tokens, width) in the dtype of `norm`.
    """
    tables = native.Tables(word, position, token_type)
    # The kernel knows no gradients, and one who hooked the norm wants it called.
    plain = batch.token_ids.is_cpu and not torch.is_grad_enabled() and direct(norm) is not norm
    if plain and native.fit(tables, norm.weight, norm.bias):
        ids = (batch.token_ids, batch.position_ids, batch.token_type_ids)
        parameters = (norm.weight, norm.bias, norm.eps)
        return native.embeddings(tables, *ids, parameters, first_position=first_position)
    # Only the rows of these tokens are widened.
    hidden = functional.embedding(batch.token_ids, word).to(norm.weight.dtype)
    # In place: none of the sums is needed again.
    hidden += _positions(batch, position, first_position)
    # Of encoders without token types a tokenizer may give some all the same.
    if token_type is not None:
        if batch.token_type_ids is None:
            hidden += token_type[0]
        else:
            hidden += functional.embedding(batch.token_type_ids, token_type)
    normed: Tensor = direct(norm)(hidden)
    return normed


def _positions(batch: Batch, table: Tensor, first: int) -> Tensor:
    """(tokens, width) of the position table."""
    end = first + len(batch.token_ids)
    if len(batch) == 1 and end <= len(table) and batch.token_ids.is_cpu:
        # One text's positions stand in one run. (A captured graph reads them on its device instead.)
        return table[first:end]
    return functional.embedding(batch.position_ids + first, table)
