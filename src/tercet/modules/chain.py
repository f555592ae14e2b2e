"""What makes the dense vector: modules over token vectors, one pooling, modules over texts' vectors."""

from __future__ import annotations

__all__ = ["DenseChain", "dense_chain"]

from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn

from tercet.batch import Batch
from tercet.checkpoint.layout import ModuleSpec
from tercet.checkpoint.token_modules import TOKEN_MODULES
from tercet.errors import CheckpointError
from tercet.modules import Tokens
from tercet.modules.bag_of_words import BagOfWords
from tercet.modules.normalize import Normalize
from tercet.modules.pooling import Pooling


class DenseChain(nn.Module):
    """Packed token vectors -> one vector a text.

    Attributes:
        before: modules over token vectors.
        pooling: the one pooling; of a bag of words, what counts them instead.
        tail: modules over texts' vectors, but for a last Normalize.
        normalizes: whether the last module is a Normalize; it belongs behind the cut to fewer dimensions.
        width: of the vectors.
    """

    def __init__(
        self, before: list[nn.Module], pooling: Pooling | BagOfWords, tail: list[nn.Module], width: int
    ) -> None:
        super().__init__()
        self.normalizes = bool(tail) and isinstance(tail[-1], Normalize)
        self.before = nn.ModuleList(before)
        self.pooling = pooling
        self.tail = nn.ModuleList(tail[:-1] if self.normalizes else tail)
        self.width = width

    def forward(self, hidden: Tensor, batch: Batch, dtype: torch.dtype, prompt_tokens: int = 0) -> Tensor:
        """(tokens, hidden) -> (texts, width) in `dtype`, before anything is cut or normalised."""
        if isinstance(self.pooling, BagOfWords):
            # As wide as a vocabulary: few texts at a time are held so.
            return torch.cat([self._behind(part) for part in self.pooling.parts(batch, dtype)])
        sums = None
        if self.before:
            tokens = Tokens(hidden.to(dtype), batch)
            for module in self.before:
                tokens = module(tokens)
            hidden, batch, sums = tokens.vectors, tokens.batch, tokens.weight_sums
        return self._behind(self.pooling(hidden, batch, dtype, prompt_tokens, sums))

    def _behind(self, vectors: Tensor) -> Tensor:
        for module in self.tail:
            vectors = module(vectors)
        return vectors


def dense_chain(
    specs: Iterable[ModuleSpec], width: int, build: Callable[[ModuleSpec, int], nn.Module], where: str
) -> DenseChain:
    """The chain that a checkpoint describes.

    Args:
        specs: its modules in their order; heads of other outputs are none of them.
        width: of the token vectors that the encoder gives.
        build: makes a module for vectors of a width.
        where: what errors call the checkpoint.

    Raises:
        CheckpointError: there is no pooling, or two, or a module stands on the wrong side of it.
    """
    pooling: Pooling | BagOfWords | None = None
    before: list[nn.Module] = []
    tail: list[nn.Module] = []
    for spec in specs:
        module = build(spec, width)
        if isinstance(module, (Pooling, BagOfWords)):
            if pooling is not None:
                raise CheckpointError(f"{where}: {spec.where} is a second pooling module.")
            pooling = module
        elif (pooling is None) is not (spec.kind in TOKEN_MODULES):
            side = "before" if pooling is None else "behind"
            raise CheckpointError(
                f"{where}: {spec.where} stands {side} the pooling module, which {spec.kind!r} cannot. "
                "Use sentence-transformers for this model."
            )
        else:
            (before if pooling is None else tail).append(module)
        width = cast(int, module.out_width)
    if pooling is None:
        raise CheckpointError(f"{where}: no pooling module; pass pooling='mean' or 'cls'.")
    return DenseChain(before, pooling, tail, width)
