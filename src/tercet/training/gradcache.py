"""Gradients of a batch that memory does not hold, exactly those of the whole (GradCache: Gao et al. 2021).

Every text is encoded twice: first without activations, to have all outputs and from them the loss and its
gradient in each output; then in parts of a token budget, each with activations, which pass that gradient on
to the weights. Dropout draws the same masks both times.
"""

from __future__ import annotations

__all__ = ["RandomState", "backward_in_parts"]

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from tercet.batch import Batch
from tercet.errors import InputError
from tercet.scoring.blocks import wide
from tercet.text.pack import pack
from tercet.training.outputs import Outputs
from tercet.training.targets import LossValue


class RandomState:
    """The state of the generators that dropout draws from, on the CPU and on one device, as it is now."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._state = self._read()

    @contextmanager
    def again(self) -> Iterator[None]:
        """A context in which everything is drawn as it was from here on; afterwards the generators go on."""
        outside = self._read()
        self._write(self._state)
        try:
            yield
        finally:
            self._write(outside)

    def _read(self) -> tuple[Tensor, Tensor | None]:
        if self.device.type == "cpu":
            return torch.get_rng_state(), None
        module = torch.get_device_module(self.device)
        # Apple's has one device, and takes none.
        state = module.get_rng_state() if self.device.type == "mps" else module.get_rng_state(self.device)
        return torch.get_rng_state(), state

    def _write(self, state: tuple[Tensor, Tensor | None]) -> None:
        cpu, other = state
        torch.set_rng_state(cpu)
        if other is not None:
            module = torch.get_device_module(self.device)
            place = () if self.device.type == "mps" else (self.device,)
            module.set_rng_state(other, *place)


def backward_in_parts(
    encode: Callable[[Batch], Outputs],
    sides: Sequence[Batch],
    loss: Callable[[Sequence[Outputs]], LossValue],
    *,
    token_budget: int,
    backward: Callable[[Tensor], None] = Tensor.backward,
    without_sync: Callable[[], AbstractContextManager[object]] = nullcontext,
    idle: int = 0,
) -> LossValue:
    """The loss of a whole batch, after its gradients were added to the weights' as one backward pass would.

    Memory: activations of `token_budget` tokens (or of one longer text), and the outputs of all texts with
    their gradients. The weights' gradients equal the whole batch's, but for sums in another order.

    Args:
        encode: a batch -> its outputs, with gradients where they are enabled. Called twice a part. Outputs
            depend on weights, tokens and torch's generators alone, and sparse entries on tokens alone.
        sides: queries and passages, or whatever the loss compares, on the encoder's device.
        loss: outputs of each side, of all texts -> the loss.
        token_budget: most tokens with activations at a time.
        backward: how the loss's backward pass starts: an accelerator's, where a factor (loss scaling,
            accumulated batches) belongs to it. The factor reaches the weights once.
        without_sync: a context for all parts but the last, such as `no_sync` of a model in several processes,
            so that gradients are averaged once.
        idle: parts that another process has more, where all gather a layer's weights together: so often the
            shortest text is encoded again, each time with a gradient of 0.

    Raises:
        InputError: a budget below 1, a side without texts, or nothing that has a gradient.
        NonFiniteError: the loss is not finite; no gradient was added.
    """
    if token_budget < 1:
        raise InputError(f"token_budget is {token_budget}; give 1 or more, and as much as memory allows.")
    if any(len(side) == 0 for side in sides) or not sides:
        raise InputError("A side of the batch has no texts to compare. Leave the batch out.")
    parts = [[_texts(side, texts) for texts in pack(side.lengths, token_budget)] for side in sides]
    states: list[list[RandomState]] = []
    leaves: list[Outputs] = []
    with torch.no_grad():
        for side in parts:
            found = []
            states.append([])
            for part in side:
                states[-1].append(RandomState(part.token_ids.device))
                found.append(encode(part))
            whole = Outputs.concat(found)
            # Gradients are summed in float32 before they meet outputs of a narrower dtype.
            wider = [tensor.detach().to(wide(tensor)) for tensor in whole.tensors()]
            leaves.append(whole.replace([tensor.requires_grad_() for tensor in wider]))
        shortest = _shortest(sides)
        for _ in range(idle):
            with RandomState(shortest.token_ids.device).again():
                encode(shortest)
    value = loss(leaves)
    if not value.value.requires_grad:
        raise InputError(
            "The loss has no gradient in the outputs: it must be computed from what it is given."
        )
    backward(value.value)

    todo = [
        (part, state, gradients)
        for side, drawn, outputs in zip(parts, states, leaves, strict=True)
        for part, state, gradients in zip(side, drawn, _gradients(outputs, side), strict=True)
    ]
    # In front, so that a part of the batch is the last one and has its gradients averaged.
    for _ in range(idle):
        with without_sync(), RandomState(shortest.token_ids.device).again(), torch.enable_grad():
            found_tensors = [tensor for tensor in encode(shortest).tensors() if tensor.requires_grad]
            if found_tensors:
                torch.autograd.backward(found_tensors, [torch.zeros_like(one) for one in found_tensors])
    learnt = False
    for number, (part, state, gradients) in enumerate(todo, 1):
        with nullcontext() if number == len(todo) else without_sync(), state.again():
            with torch.enable_grad():
                tensors = encode(part).tensors()
            pairs = [
                (tensor, gradient.to(tensor.dtype))
                for tensor, gradient in zip(tensors, gradients, strict=True)
                if tensor.requires_grad
            ]
            if pairs:
                learnt = True
                torch.autograd.backward([tensor for tensor, _ in pairs], [gradient for _, gradient in pairs])
    if not learnt:
        raise InputError(
            "No output has a gradient: all weights are frozen. Leave some of them to be trained."
        )
    return LossValue(value.value.detach(), value.parts)


def _texts(batch: Batch, texts: slice) -> Batch:
    """Some texts of a batch that follow one another."""
    first = sum(batch.lengths[: texts.start])
    rows = slice(first, first + sum(batch.lengths[texts]))
    types = batch.token_type_ids
    bounds = batch.cu_seqlens[texts.start : texts.stop + 1]
    return Batch(
        batch.token_ids[rows],
        batch.position_ids[rows],
        bounds - bounds[0],
        batch.lengths[texts],
        None if types is None else types[rows],
        prompt_tokens=None if batch.prompt_tokens is None else batch.prompt_tokens[texts],
    )


def _shortest(sides: Sequence[Batch]) -> Batch:
    """The text with the fewest tokens, alone."""
    side = min(sides, key=lambda side: min(side.lengths))
    place = min(range(len(side)), key=lambda text: side.lengths[text])
    return _texts(side, slice(place, place + 1))


def _gradients(outputs: Outputs, parts: Sequence[Batch]) -> Iterator[list[Tensor]]:
    """Of each part, the gradients of its tensors; 0 where the loss did not look."""
    found = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in outputs.tensors()]
    whole, first = outputs.replace(found), 0
    for part in parts:
        yield whole[first : first + len(part)].tensors()
        first += len(part)
