"""MPNet (Song et al. 2020): BERT's form, RoBERTa's positions, and a bias by how far a key is from its query.

So all-mpnet-base, multi-qa-mpnet, paraphrase-mpnet. All layers share the bias. Kernels of our own know none:
attention is torch's in every engine, and the products are the engine's as ever.
"""

from __future__ import annotations

__all__ = ["MPNetEncoder", "RelativeBias"]

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.batch import Batch
from tercet.encoders import ENCODERS
from tercet.encoders.bert import BertEncoder, BertLayer, BertSizes
from tercet.encoders.layered import table
from tercet.errors import CheckpointError
from tercet.layers.attention import attention

# What transformers counts by, whatever config.json says; further rows of the table are never read.
_KINDS, _FARTHEST = 32, 128
_EXACT = _STEPS = _KINDS // 4  # of each side
_FIRST_POSITION = 2  # behind the row of the padding token, which is 1 in every MPNet


class RelativeBias(nn.Module):
    """What is added to the scores of each head, by how far the key is behind its query (Raffel et al. 2020).

    Distances below 8 have a row each, those up to 128 share rows that grow, all others have one; either side
    has rows of its own.
    """

    def __init__(self, kinds: int, heads: int) -> None:
        super().__init__()
        self.table = table(kinds, heads)
        # A real tensor also where the module is built without memory: it is in no file.
        rows = [_row(distance) for distance in range(-_FARTHEST, _FARTHEST + 1)]
        self.register_buffer("rows", torch.tensor(rows, device="cpu"), persistent=False)

    def forward(self, reach: int) -> Tensor:
        """(heads, 2 reach + 1) of keys -reach..reach places behind their query."""
        assert isinstance(self.rows, Tensor)
        distances = torch.arange(-reach, reach + 1, device=self.rows.device)
        rows = self.rows[distances.clamp(-_FARTHEST, _FARTHEST) + _FARTHEST]
        return functional.embedding(rows, self.table.weight).t().contiguous()


def _row(distance: int) -> int:
    """The row of a distance, of a key behind its query where it is positive."""
    side, far = (_KINDS // 2 if distance > 0 else 0), abs(distance)
    if far < _EXACT:
        return side + far
    # Steps grow by a factor each, and reach the farthest in so many; compared in whole numbers, unrounded.
    ratio = _FARTHEST // _EXACT
    steps: int = sum(far**_STEPS >= _EXACT**_STEPS * ratio**step for step in range(1, _STEPS))
    return side + _EXACT + steps


class MPNetLayer(BertLayer):
    """A layer whose attention has a bias."""

    def __init__(self, bias: RelativeBias, sizes: BertSizes, where: str, *, fused: bool) -> None:
        super().__init__(sizes, where, fused=fused)
        # In a tuple, so that it is no part of this layer: it belongs to all of them.
        self._bias = (bias,)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, batch: Batch) -> Tensor:
        """(tokens, hidden) each -> (tokens, hidden)."""
        bias = self._bias[0](max(batch.max_seqlen - 1, 0))
        return attention(query, key, value, batch, self.heads, bias=bias)


class MPNetEncoder(BertEncoder):
    """The body under MPNet's names."""

    embedding_names: ClassVar[Mapping[str, str]] = {
        "embeddings.word_embeddings.weight": "word.weight",
        "embeddings.position_embeddings.weight": "position.weight",
        "embeddings.LayerNorm.weight": "norm.weight",
        "embeddings.LayerNorm.bias": "norm.bias",
        "encoder.relative_attention_bias.weight": "relative.table.weight",
    }
    layer_names: ClassVar[Mapping[str, tuple[str, int | None]]] = {
        "attention.attn.q": ("qkv", 0),
        "attention.attn.k": ("qkv", 1),
        "attention.attn.v": ("qkv", 2),
        "attention.attn.o": ("attention_out", None),
        "attention.LayerNorm": ("attention_norm", None),
        "intermediate.dense": ("feed_forward.up", None),
        "output.dense": ("feed_forward.down", None),
        "output.LayerNorm": ("output_norm", None),
    }

    def __init__(self, sizes: BertSizes, kinds: int, where: str, *, fused: bool) -> None:
        relative = RelativeBias(kinds, sizes.heads)
        super().__init__(sizes, where, fused=fused, layer=partial(MPNetLayer, relative))
        self.relative = relative


@ENCODERS.register("mpnet")
def mpnet(config: Mapping[str, Any], where: str, *, fused: bool = True) -> MPNetEncoder:
    """An MPNet body: positions begin behind the row of the padding token."""
    kinds = config.get("relative_attention_num_buckets", _KINDS)
    if type(kinds) is not int or not _KINDS <= kinds < 1 << 31:
        raise CheckpointError(
            f"{where}: relative_attention_num_buckets is {kinds!r}, it must be {_KINDS}: distances are "
            "counted by so many. Fetch the file again."
        )
    sizes = BertSizes.from_config(config, first_position=_FIRST_POSITION, where=where, typed=False)
    return MPNetEncoder(sizes, kinds, where, fused=fused)
