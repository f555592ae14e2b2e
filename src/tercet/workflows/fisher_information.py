"""The diagonal Fisher information of a model that embeds: how much each number matters to what it finds.

The likelihood is that of a choice. A group has n queries and m passages, and output o of the model (dense,
sparse or multi-vector) says with which probability query i means passage j:

    p_o(j | i) = softmax over j of s_o(i, j) / temperature

with s the cosine of dense vectors, the dot product of sparse ones, the mean of the largest cosines of token
vectors. The outputs choose on their own, so their information adds up. The Fisher information of a number is

    F = mean over queries of the sum over outputs of E_{j ~ p_o} (d log p_o(j | i) / d number)^2,

the expectation by the model's own probabilities, without labels: the true Fisher, not the empirical one
(Kunstner et al. 2019). That takes m gradients a query; here it is one a group, which is the same on average:
for signs r, each 1 or -1 by chance, the gradient of the sum over i, j, o of
r sqrt(p_o(j | i)) log p_o(j | i), p held fixed under the root, has a square whose mean is F, since different
signs cancel (Hutchinson 1990).
"""

from __future__ import annotations

__all__ = ["fisher_information", "signed_choices"]

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from tercet.batch import Batch
from tercet.errors import NonFiniteError
from tercet.training.gradcache import backward_in_parts
from tercet.training.model import Trainable
from tercet.training.outputs import Outputs
from tercet.training.scores import scores
from tercet.training.targets import LossValue

Signs = Callable[[int, int], Tensor]


def signed_choices(logits: Tensor, signs: Tensor) -> Tensor:
    """The sum over queries and passages of sign times sqrt(p) times log p, p held fixed under the root.

    Args:
        logits: (queries, passages).
        signs: the same, each 1 or -1.
    """
    logs = logits.log_softmax(dim=1)
    return (signs * (logs.detach() / 2).exp() * logs).sum()


def fisher_information(
    model: Trainable,
    parameters: Mapping[str, nn.Parameter],
    groups: Iterable[tuple[Batch, Batch]],
    *,
    temperature: float,
    token_budget: int,
    signs: Signs,
    done: Callable[[int], None] = lambda queries: None,
) -> tuple[dict[str, Tensor], int]:
    """Of each parameter F of each number, float32; and how many queries there were.

    Squares are added up in float32.

    Args:
        model: without dropout.
        parameters: what it is wanted of, by whatever names.
        groups: queries and passages, of which each query chooses one.
        temperature: similarities are divided by it.
        token_budget: most tokens with activations at a time; a text with more goes alone.
        signs: numbers of rows and columns -> 1 or -1 by chance; called once a group and output.
        done: told the queries of each group.

    Raises:
        NonFiniteError: a gradient is not finite.
    """
    found = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    count = 0

    def loss(outputs: Sequence[Outputs]) -> LossValue:
        queries, passages = outputs
        total = torch.zeros(())
        for head in model.outputs:
            logits = scores(queries, passages, head, normalize=True) / temperature  # type: ignore[arg-type]
            total = total + signed_choices(logits, signs(*logits.shape))
        return LossValue(total)

    for queries, passages in groups:
        model.zero_grad(set_to_none=True)
        backward_in_parts(model, (queries, passages), loss, token_budget=token_budget)
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                found[name].addcmul_(parameter.grad, parameter.grad)
        count += len(queries)
        done(len(queries))
    model.zero_grad(set_to_none=True)
    for name, one in found.items():
        one /= max(1, count)
        if not bool(one.isfinite().all()):
            raise NonFiniteError(
                f"The gradient in {name} is not finite for some text. Raise the temperature, or look at the "
                "model with tercet audit."
            )
    return found, count
