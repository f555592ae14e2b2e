"""BoW: the words of a text counted, each with its weight; no encoder and no pooling."""

from __future__ import annotations

__all__ = ["BagOfWords"]

from collections.abc import Iterator
from itertools import accumulate

import torch
from torch import Tensor, nn

from tercet.batch import Batch
from tercet.checkpoint.layout import ModuleSpec
from tercet.modules import MODULES, Read, weight

# Vectors are as wide as the vocabulary: so many numbers at a time go on to the modules behind, 16 MB.
_NUMBERS = 1 << 22


class BagOfWords(nn.Module):
    """Word ids -> one vector a text, with a number for each word of the vocabulary.

    Args:
        weights: (words,) in the heads' dtype.
        counted: whether a word counts as often as it occurs, as of term frequency, or once.
    """

    def __init__(self, weights: Tensor, *, counted: bool) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights, requires_grad=False)
        self.counted = counted
        self.out_width = len(weights)

    def parts(self, batch: Batch, dtype: torch.dtype) -> Iterator[Tensor]:
        """(some texts, words) in `dtype`, until all texts have come; one part at least, even of no text.

        Words of a prompt are counted, too.
        """
        offsets = [0, *accumulate(batch.lengths)]
        texts, rows = len(batch), max(1, _NUMBERS // self.out_width)
        for first in range(0, max(1, texts), rows):
            last = min(first + rows, texts)
            ids = batch.token_ids[offsets[first] : offsets[last]].long()
            lengths = batch.cu_seqlens[first : last + 1].diff().long()
            numbers = torch.arange(last - first, device=ids.device)
            text = torch.repeat_interleave(numbers, lengths, output_size=len(ids))
            # Counts are whole numbers, so that their sum does not depend on its order.
            counts = torch.zeros((last - first) * self.out_width, dtype=dtype, device=ids.device)
            counts.index_add_(
                0, text * self.out_width + ids, torch.ones(len(ids), device=ids.device).to(dtype)
            )
            if not self.counted:
                counts.clamp_(max=1)
            yield counts.view(last - first, self.out_width) * self.weights.to(dtype)


@MODULES.register("bag_of_words")
def bag_of_words(spec: ModuleSpec, width: int, read: Read) -> BagOfWords:
    """The words of a BoW and their weights."""
    return BagOfWords(weight(spec, "weight", (None,), read), counted=spec.config["counted"])
