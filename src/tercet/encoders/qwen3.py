"""Qwen3 (Yang et al. 2025): a decoder, whose tokens see those before them alone.

So Qwen3-Embedding, and Qwen3-Reranker with a head of two tokens. Norms stand before attention and the net,
heads share keys and values (Ainslie et al. 2023), positions turn queries and keys (Su et al. 2021).
"""

from __future__ import annotations

__all__ = ["Qwen3Encoder", "Qwen3Layer"]

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.batch import Batch
from tercet.checkpoint.decoder_files import DecoderSizes
from tercet.encoders import ENCODERS, Target
from tercet.encoders.layered import LayeredEncoder, table
from tercet.layers.activation import encoder_activation
from tercet.layers.attention import attention
from tercet.layers.calling import direct
from tercet.layers.linear import Linear, Unbiased
from tercet.layers.norm import RMSNorm
from tercet.layers.rotary import Rotary, turned

_LINEAR = {
    "self_attn.q_proj": "query",
    "self_attn.k_proj": "key",
    "self_attn.v_proj": "value",
    "self_attn.o_proj": "attention_out",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
}
_NORMS = {
    "input_layernorm": "attention_norm",
    "self_attn.q_norm": "query_norm",
    "self_attn.k_norm": "key_norm",
    "post_attention_layernorm": "feed_forward_norm",
}

# Rows that are turned at once on a CPU: what lies between stays in cache, and in few bytes.
_ROWS = 256


class Qwen3Layer(nn.Module):
    """Attention and a gated feed-forward net, each behind a norm and added to what came in.

    Args:
        config: config.json, as `decoder_settings` has checked it.
        rotary: the positions, which belong to all layers.
        where: what errors call the configuration.
        last: whether the norm behind all layers is this one's.
    """

    def __init__(self, config: Mapping[str, Any], rotary: Rotary, where: str, *, last: bool) -> None:
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        sizes, epsilon = DecoderSizes.of(config), config["rms_norm_eps"]
        linear = Linear if config["attention_bias"] else Unbiased
        self.heads, self.head_width = config["num_attention_heads"], config["head_dim"]
        self.attention_norm = RMSNorm(hidden, epsilon)
        self.query = linear(hidden, sizes.queries)
        self.key = linear(hidden, sizes.keys)
        self.value = linear(hidden, sizes.keys)
        self.query_norm = RMSNorm(self.head_width, epsilon)
        self.key_norm = RMSNorm(self.head_width, epsilon)
        self.attention_out = linear(sizes.queries, hidden)
        self.feed_forward_norm = RMSNorm(hidden, epsilon)
        self.gate = Unbiased(hidden, inner)
        self.up = Unbiased(hidden, inner)
        self.down = Unbiased(inner, hidden)
        self.activation = encoder_activation(str(config["hidden_act"]), where)
        self.closing = RMSNorm(hidden, epsilon) if last else None
        # In a tuple, so that it is no part of this layer.
        self._rotary = (rotary,)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """(tokens, hidden) -> (tokens, hidden)."""
        hidden = direct(self.attention_out)(self._attend(hidden, batch), residual=hidden)
        hidden = direct(self.down)(self._inner(hidden), residual=hidden)
        return hidden if self.closing is None else self.closing(hidden)

    def _attend(self, hidden: Tensor, batch: Batch) -> Tensor:
        """(tokens, hidden) -> (tokens, queries): what each head mixes of the values before it."""
        normed = direct(self.attention_norm)(hidden)
        value = direct(self.value)(normed)
        angles = self._rotary[0](batch.position_ids)
        query = self._placed(direct(self.query)(normed), self.query_norm, angles)
        key = self._placed(direct(self.key)(normed), self.key_norm, angles)
        del normed
        return attention(query, key, value, batch, self.heads, causal=True)

    def _placed(self, rows: Tensor, norm: RMSNorm, angles: tuple[Tensor, Tensor]) -> Tensor:
        """(tokens, heads * width), each head's normed and turned by its position; rounded once."""
        heads = rows.view(len(rows), rows.shape[1] // self.head_width, self.head_width)
        placed = torch.empty_like(heads)
        step = _ROWS if rows.is_cpu else max(len(rows), 1)
        for some in (slice(start, start + step) for start in range(0, len(rows), step)):
            placed[some] = turned(norm.wide(heads[some]), *(part[some] for part in angles))
        return placed.view(rows.shape)

    def _inner(self, hidden: Tensor) -> Tensor:
        """(tokens, hidden) -> (tokens, inner), gated (SwiGLU; Shazeer 2020)."""
        normed = direct(self.feed_forward_norm)(hidden)
        gate: Tensor = direct(self.gate)(normed, activation=self.activation)
        up: Tensor = direct(self.up)(normed)
        return gate * up


class Qwen3Encoder(LayeredEncoder):
    """The body: embeddings, layers and the norm behind them, without the head that names the next token.

    Every projection is a product of its own, with its weight as it lies in the file.
    """

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        super().__init__()
        self.config = config
        self.word = table(config["vocab_size"], config["hidden_size"])
        self.rotary = Rotary(config["head_dim"], config["rope_theta"])
        layers = config["num_hidden_layers"]
        self.layers = nn.ModuleList(
            Qwen3Layer(config, self.rotary, where, last=number + 1 == layers) for number in range(layers)
        )

    @property
    def max_tokens(self) -> int:
        """Most tokens of a text that the model was made for."""
        return int(self.config["max_position_embeddings"])

    def names(self) -> dict[str, Target]:
        """Checkpoint name -> where it goes."""
        parameters = {name: tuple(parameter.shape) for name, parameter in self.named_parameters()}
        last = len(self.layers) - 1
        ours = {"embed_tokens.weight": "word.weight", "norm.weight": f"layers.{last}.closing.weight"}
        for index in range(len(self.layers)):
            for theirs, own in (_LINEAR | _NORMS).items():
                for kind in ("weight", "bias"):
                    if f"layers.{index}.{own}.{kind}" in parameters:
                        ours[f"layers.{index}.{theirs}.{kind}"] = f"layers.{index}.{own}.{kind}"
        return {theirs: Target(own, parameters[own]) for theirs, own in ours.items()}

    def embed(self, batch: Batch) -> Tensor:
        """(tokens, hidden) that enter the first layer."""
        return functional.embedding(batch.token_ids, self.word.weight)


@ENCODERS.register("qwen3")
def qwen3(config: Mapping[str, Any], where: str, *, fused: bool = True) -> Qwen3Encoder:
    """A Qwen3 body; its projections are never fused."""
    return Qwen3Encoder(config, where)
