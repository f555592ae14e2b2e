"""The head of a cross-encoder: the first token's vector through a dense layer, and one logit a label."""

from __future__ import annotations

__all__ = ["Classification"]

from torch import Tensor, nn
from torch.nn import functional

from tercet.checkpoint.layout import ModuleSpec
from tercet.layers.activation import Activation, encoder_activation
from tercet.modules import MODULES, Read, weight


class Classification(nn.Module):
    """Linear, activation, linear; under other names the same in BERT (whose pooler it is) and its kin."""

    def __init__(
        self, dense: tuple[Tensor, Tensor], out: tuple[Tensor, Tensor], activation: Activation
    ) -> None:
        super().__init__()
        self.dense_weight, self.dense_bias = (nn.Parameter(part, requires_grad=False) for part in dense)
        self.weight, self.bias = (nn.Parameter(part, requires_grad=False) for part in out)
        self.activation = activation
        self.out_width = self.weight.shape[0]

    def forward(self, first: Tensor) -> Tensor:
        """(pairs, hidden) of the first tokens, in any dtype -> (pairs, labels) logits in the head's dtype."""
        wide = first.to(self.weight.dtype)
        mixed = self.activation(functional.linear(wide, self.dense_weight, self.dense_bias))
        return functional.linear(mixed, self.weight, self.bias)


@MODULES.register("classification")
def classification(spec: ModuleSpec, width: int, read: Read) -> Classification:
    """The head as the checkpoint describes it: "dense" and "out", and the activation between them."""
    labels = spec.config["labels"]
    dense = (weight(spec, "dense.weight", (width, width), read), weight(spec, "dense.bias", (width,), read))
    out = (weight(spec, "out.weight", (labels, width), read), weight(spec, "out.bias", (labels,), read))
    return Classification(dense, out, encoder_activation(spec.config["hidden_activation"], spec.where))
