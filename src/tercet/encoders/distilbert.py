"""DistilBERT (Sanh et al. 2019): BERT with half the layers, other names and no token types.

So multi-qa-distilbert, msmarco-distilbert, distiluse.
"""

from __future__ import annotations

__all__ = ["DistilBertEncoder"]

from collections.abc import Mapping
from typing import Any, ClassVar

from tercet.encoders import ENCODERS
from tercet.encoders.bert import BertEncoder, BertSizes


class DistilBertEncoder(BertEncoder):
    """The body under DistilBERT's names."""

    embedding_names: ClassVar[Mapping[str, str]] = {
        "embeddings.word_embeddings.weight": "word.weight",
        "embeddings.position_embeddings.weight": "position.weight",
        "embeddings.LayerNorm.weight": "norm.weight",
        "embeddings.LayerNorm.bias": "norm.bias",
    }
    layer_names: ClassVar[Mapping[str, tuple[str, int | None]]] = {
        "attention.q_lin": ("qkv", 0),
        "attention.k_lin": ("qkv", 1),
        "attention.v_lin": ("qkv", 2),
        "attention.out_lin": ("attention_out", None),
        "sa_layer_norm": ("attention_norm", None),
        "ffn.lin1": ("feed_forward.up", None),
        "ffn.lin2": ("feed_forward.down", None),
        "output_layer_norm": ("output_norm", None),
    }
    layers_name: ClassVar[str] = "transformer.layer"


@ENCODERS.register("distilbert")
def distilbert(config: Mapping[str, Any], where: str, *, fused: bool = True) -> DistilBertEncoder:
    """A DistilBERT body: positions begin at row 0. The epsilon of its norms is no setting, but BERT's."""
    sizes = BertSizes.from_config(
        {**config, "layer_norm_eps": 1e-12}, first_position=0, where=where, typed=False
    )
    return DistilBertEncoder(sizes, where, fused=fused)
