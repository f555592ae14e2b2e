"""ELECTRA (Clark et al. 2020): BERT's layers behind embeddings that may be narrower, and are widened then.

The body of a discriminator or of a generator; what either has on top for pre-training is not used.
"""

from __future__ import annotations

__all__ = ["ElectraEncoder"]

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tercet.batch import Batch
from tercet.encoders import ENCODERS, Target
from tercet.encoders.bert import BertEncoder, BertSizes
from tercet.errors import CheckpointError
from tercet.layers.calling import direct
from tercet.layers.linear import Linear

_DEFAULT_EMBEDDING = 128  # what transformers takes where config.json says nothing


class ElectraEncoder(BertEncoder):
    """The body, with a projection of the embeddings where their width is not the layers'."""

    def __init__(self, sizes: BertSizes, where: str, *, fused: bool) -> None:
        super().__init__(sizes, where, fused=fused)
        narrow = sizes.embedding != sizes.hidden
        self.project = Linear(sizes.embedding, sizes.hidden) if narrow else None

    def names(self) -> dict[str, Target]:
        """Checkpoint name -> where it goes."""
        found = super().names()
        if self.project is not None:
            for kind, parameter in self.project.named_parameters():
                found[f"embeddings_project.{kind}"] = Target(f"project.{kind}", tuple(parameter.shape))
        return found

    def embed(self, batch: Batch) -> Tensor:
        """(tokens, hidden) that enter the first layer."""
        embedded = super().embed(batch)
        if self.project is None:
            return embedded
        projected: Tensor = direct(self.project)(embedded)
        return projected


@ENCODERS.register("electra")
def electra(config: Mapping[str, Any], where: str, *, fused: bool = True) -> ElectraEncoder:
    """An ELECTRA body: positions begin at row 0."""
    width = config.get("embedding_size", _DEFAULT_EMBEDDING)
    if type(width) is not int or not 0 < width < 1 << 31:
        raise CheckpointError(f"{where}: embedding_size is {width!r}, it must be a positive integer.")
    sizes = BertSizes.from_config(config, first_position=0, where=where, embedding=width)
    return ElectraEncoder(sizes, where, fused=fused)
