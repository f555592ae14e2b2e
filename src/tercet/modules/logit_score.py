"""LogitScore of sentence-transformers: how much rather a language model would say one token than another."""

from __future__ import annotations

__all__ = ["LogitScore"]

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.checkpoint.layout import ModuleSpec
from tercet.modules import MODULES, Read


class LogitScore(nn.Module):
    """The logit of a token behind a text, less that of another; of the whole vocabulary's rows, theirs alone.

    Args:
        rows: (1 or 2, hidden) in float32 or wider, of the language model's head: the true token's, and the
            false one's.
    """

    rows: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows)

    def forward(self, last: Tensor) -> Tensor:
        """(texts, hidden) of last tokens in any float dtype -> (texts, 1) in float32 or wider."""
        wide = torch.promote_types(last.dtype, self.rows.dtype)
        logits = functional.linear(last.to(wide), self.rows.to(wide))
        return logits if logits.shape[1] == 1 else logits[:, :1] - logits[:, 1:]


@MODULES.register("logit_score")
def logit_score(spec: ModuleSpec, width: int, read: Read) -> LogitScore:
    """The head by the ids that the checkpoint names; of the matrix, as it is stored, those rows are read."""
    ids = [spec.config[name] for name in ("true", "false") if spec.config[name] is not None]
    rows = read("head")[ids]
    return LogitScore(rows.to(torch.promote_types(rows.dtype, torch.float32)))
