"""Dropout where an architecture has it while it is trained; what runs a trained model knows none."""

from __future__ import annotations

__all__ = ["Dropping", "add_dropout"]

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.batch import Batch
from tercet.encoders.bert import BertLayer
from tercet.layers.activation import Activation
from tercet.layers.linear import torch_product


def add_dropout(encoder: nn.Module, hidden: float, attention: float) -> None:
    """Has every layer drop numbers while `encoder.training` is true.

    Args:
        encoder: built of BERT's layers.
        hidden: part of what attention and the feed-forward net add to a residual.
        attention: part of the probabilities; layers with a bias of their own (MPNet) keep theirs.
    """
    for layer in encoder.modules():
        if not isinstance(layer, BertLayer):
            continue
        if hidden:
            for linear in (layer.attention_out, layer.feed_forward.down):
                linear.product = Dropping(encoder, hidden)
        if attention and type(layer).attend is BertLayer.attend:
            setattr(layer, "attend", partial(_attend, layer, attention))  # noqa: B010 - a method of one layer


class Dropping:
    """torch's product, some numbers of which are dropped before the residual is added."""

    def __init__(self, encoder: nn.Module, part: float) -> None:
        self.encoder = encoder
        self.part = part

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        activation: Activation | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """(tokens, in) -> (tokens, out)."""
        out = torch_product(x, weight, bias, activation)
        out = functional.dropout(out, self.part, self.encoder.training)
        return out if residual is None else out + residual


def _attend(layer: BertLayer, part: float, query: Tensor, key: Tensor, value: Tensor, batch: Batch) -> Tensor:
    """(tokens, hidden) each -> (tokens, hidden), with dropout of the probabilities."""
    if not layer.training:
        return BertLayer.attend(layer, query, key, value, batch)
    tokens, hidden = query.shape
    position = torch.arange(batch.max_seqlen, device=query.device)
    starts, lengths = batch.cu_seqlens[:-1, None].long(), batch.cu_seqlens.diff()[:, None]
    inside = position < lengths  # (texts, longest)
    places = torch.where(inside, starts + position, starts).clamp(max=tokens - 1)
    # (texts, heads, longest, width)
    queries, keys, values = (
        rows[places].view(*places.shape, layer.heads, hidden // layer.heads).transpose(1, 2)
        for rows in (query, key, value)
    )
    mixed = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=inside[:, None, None, :], dropout_p=part
    )
    return mixed.transpose(1, 2).flatten(2)[inside]
