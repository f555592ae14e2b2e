"""LayerNorm over the pooled vector."""

from __future__ import annotations

__all__ = ["LayerNorm"]

from torch import Tensor, nn
from torch.nn import functional

from tercet.checkpoint.layout import ModuleSpec
from tercet.modules import MODULES, Read, weight


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016) of one vector a text."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.shift = nn.Parameter(shift, requires_grad=False)
        self.out_width = len(scale)

    def forward(self, vectors: Tensor) -> Tensor:
        """(texts, width) -> (texts, width)."""
        # 1e-5 is torch's default, which sentence-transformers keeps and does not save.
        return functional.layer_norm(vectors, self.scale.shape, self.scale, self.shift, 1e-5)


@MODULES.register("layer_norm")
def layer_norm(spec: ModuleSpec, width: int, read: Read) -> LayerNorm:
    """A LayerNorm module as the checkpoint describes it."""
    return LayerNorm(weight(spec, "norm.weight", (width,), read), weight(spec, "norm.bias", (width,), read))
