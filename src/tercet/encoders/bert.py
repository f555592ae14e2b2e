"""BERT (Devlin et al. 2019), RoBERTa (Liu et al. 2019) and XLM-RoBERTa (Conneau et al. 2020).

So BGE v1.5, BGE-M3, E5, MiniLM, GTE base and large, mxbai: one post-norm encoder with learned positions. The
architectures differ in where positions begin: RoBERTa's table keeps rows 0..padding_idx for padding.

Encoders of the same form with other names or one more part are built on this one, each in its own file.
"""

from __future__ import annotations

__all__ = ["BertEncoder", "BertLayer", "BertSizes", "LayerFactory"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from tercet.batch import Batch
from tercet.encoders import ENCODERS, Target
from tercet.encoders.layered import LayeredEncoder, table
from tercet.errors import CheckpointError
from tercet.layers.activation import encoder_activation
from tercet.layers.attention import attention
from tercet.layers.calling import direct
from tercet.layers.embeddings import embedded
from tercet.layers.linear import FeedForward, Linear, ThreeLinear
from tercet.layers.norm import LayerNorm

# Checkpoint name -> (parameter, which third of the fused rows)
_LAYER = {
    "attention.self.query": ("qkv", 0),
    "attention.self.key": ("qkv", 1),
    "attention.self.value": ("qkv", 2),
    "attention.output.dense": ("attention_out", None),
    "attention.output.LayerNorm": ("attention_norm", None),
    "intermediate.dense": ("feed_forward.up", None),
    "output.dense": ("feed_forward.down", None),
    "output.LayerNorm": ("output_norm", None),
}
_EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "word.weight",
    "embeddings.position_embeddings.weight": "position.weight",
    "embeddings.token_type_embeddings.weight": "token_type.weight",
    "embeddings.LayerNorm.weight": "norm.weight",
    "embeddings.LayerNorm.bias": "norm.bias",
}


@dataclass(frozen=True, slots=True)
class BertSizes:
    """What config.json says, checked."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    token_types: int
    first_position: int
    activation: str
    epsilon: float
    embedding: int

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        *,
        first_position: int,
        where: str,
        typed: bool = True,
        embedding: int | None = None,
    ) -> BertSizes:
        """The sizes in config.json.

        Args:
            config: config.json, under BERT's own keys.
            first_position: row of the position table that a text's first token takes.
            where: what errors call the configuration.
            typed: whether the encoder has a table of token types.
            embedding: width of the tables; None for the encoder's own.

        Raises:
            CheckpointError: a size is missing, not a positive integer, or does not divide as it must.
        """

        def size(key: str, default: int | None = None) -> int:
            value = config.get(key, default)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
                raise CheckpointError(f"{where}: {key} is {value!r}, it must be a positive integer.")
            return value

        sizes = cls(
            hidden=size("hidden_size"),
            layers=size("num_hidden_layers"),
            heads=size("num_attention_heads"),
            intermediate=size("intermediate_size"),
            vocabulary=size("vocab_size"),
            positions=size("max_position_embeddings"),
            token_types=size("type_vocab_size", 1) if typed else 0,
            first_position=first_position,
            activation=str(config.get("hidden_act", "gelu")),
            epsilon=float(config.get("layer_norm_eps", 1e-12)),
            embedding=size("hidden_size") if embedding is None else embedding,
        )
        if sizes.hidden % sizes.heads:
            raise CheckpointError(
                f"{where}: hidden_size {sizes.hidden} is not a multiple of num_attention_heads {sizes.heads}."
            )
        return sizes


class LayerEnd(Protocol):
    """What follows attention in a layer, with weights that it holds itself."""

    def __call__(self, layer: BertLayer, mixed: Tensor, residual: Tensor) -> Tensor:
        """Attention's result and what entered the layer, (tokens, hidden) each -> what leaves the layer."""
        ...


class BertLayer(nn.Module):
    """Attention and a feed-forward net, each with a residual and a norm behind it."""

    def __init__(self, sizes: BertSizes, where: str, *, fused: bool) -> None:
        super().__init__()
        hidden = sizes.hidden
        self.heads = sizes.heads
        self.attends_in_bfloat16 = False  # an engine's choice, where kernels have it
        self.qkv = ThreeLinear(hidden, fused=fused)
        self.attention_out = Linear(hidden, hidden)
        self.attention_norm = LayerNorm(hidden, eps=sizes.epsilon)
        activation = encoder_activation(sizes.activation, where)
        self.feed_forward = FeedForward(hidden, sizes.intermediate, activation)
        self.output_norm = LayerNorm(hidden, eps=sizes.epsilon)
        self.end: LayerEnd | None = None  # an engine's way to do all that follows attention at once

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """(tokens, hidden) -> (tokens, hidden)."""
        query, key, value = direct(self.qkv)(hidden)
        mixed = self.attend(query, key, value, batch)
        if self.end is not None:
            return self.end(self, mixed, hidden)
        hidden = direct(self.attention_norm)(direct(self.attention_out)(mixed, residual=hidden))
        result: Tensor = direct(self.output_norm)(direct(self.feed_forward)(hidden, residual=hidden))
        return result

    def attend(self, query: Tensor, key: Tensor, value: Tensor, batch: Batch) -> Tensor:
        """(tokens, hidden) each -> (tokens, hidden)."""
        return attention(query, key, value, batch, self.heads, bfloat16=self.attends_in_bfloat16)


class LayerFactory(Protocol):
    """Makes one layer."""

    def __call__(self, sizes: BertSizes, where: str, *, fused: bool) -> BertLayer:
        """The layer; `where` is what errors call the configuration."""
        ...


class BertEncoder(LayeredEncoder):
    """The body: embeddings and layers; no pooler, which no embedding model uses.

    Attributes:
        embedding_names: checkpoint name -> parameter, of what stands before the layers.
        layer_names: the same of a layer's parts, and which third of the fused rows.
        layers_name: what comes before the number of a layer in the checkpoint.
    """

    embedding_names: ClassVar[Mapping[str, str]] = _EMBEDDINGS
    layer_names: ClassVar[Mapping[str, tuple[str, int | None]]] = _LAYER
    layers_name: ClassVar[str] = "encoder.layer"

    def __init__(self, sizes: BertSizes, where: str, *, fused: bool, layer: LayerFactory = BertLayer) -> None:
        super().__init__()
        self.sizes = sizes
        self.fused = fused
        self.word = table(sizes.vocabulary, sizes.embedding)
        self.position = table(sizes.positions, sizes.embedding)
        self.token_type = table(sizes.token_types, sizes.embedding) if sizes.token_types else None
        self.norm = LayerNorm(sizes.embedding, eps=sizes.epsilon)
        self.layers = nn.ModuleList(layer(sizes, where, fused=fused) for _ in range(sizes.layers))

    @property
    def max_tokens(self) -> int:
        """Most tokens of a text that the position table holds."""
        return self.sizes.positions - self.sizes.first_position

    def names(self) -> dict[str, Target]:
        """Checkpoint name -> where it goes."""
        shapes = {name: tuple(parameter.shape) for name, parameter in self.named_parameters()}
        found = {theirs: Target(ours, shapes[ours]) for theirs, ours in self.embedding_names.items()}
        hidden = self.sizes.hidden
        for index in range(self.sizes.layers):
            for theirs, (ours, third) in self.layer_names.items():
                if third is not None:
                    ours = "qkv.fused" if self.fused else f"qkv.apart.{third}"
                for kind in ("weight", "bias"):
                    parameter = f"layers.{index}.{ours}.{kind}"
                    shape, first_row = shapes[parameter], None
                    if third is not None and self.fused:
                        shape, first_row = (hidden, *shape[1:]), third * hidden
                    found[f"{self.layers_name}.{index}.{theirs}.{kind}"] = Target(parameter, shape, first_row)
        return found

    def embed(self, batch: Batch) -> Tensor:
        """(tokens, hidden) that enter the first layer."""
        types = None if self.token_type is None else self.token_type.weight
        first = self.sizes.first_position
        return embedded(batch, self.word.weight, self.position.weight, types, self.norm, first_position=first)


@ENCODERS.register("bert")
def bert(config: Mapping[str, Any], where: str, *, fused: bool = True) -> BertEncoder:
    """A BERT body: positions begin at row 0."""
    return BertEncoder(BertSizes.from_config(config, first_position=0, where=where), where, fused=fused)


@ENCODERS.register("roberta", "xlm-roberta")
def roberta(config: Mapping[str, Any], where: str, *, fused: bool = True) -> BertEncoder:
    """A RoBERTa or XLM-RoBERTa body: positions begin behind the row of the padding token."""
    padding = config.get("pad_token_id", 1)
    if not isinstance(padding, int) or padding < 0:
        raise CheckpointError(f"{where}: pad_token_id is {padding!r}; RoBERTa counts its positions from it.")
    return BertEncoder(
        BertSizes.from_config(config, first_position=padding + 1, where=where), where, fused=fused
    )
