"""Where weights, gradients and moments lie: whole in each process, or a part of each in every one (FSDP)."""

from __future__ import annotations

__all__ = ["Replicated", "Sharded", "hold"]

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tercet.batch import Batch
from tercet.encoders import Encoder
from tercet.training.cross_encoder import TrainableReranker
from tercet.training.model import Trainable
from tercet.training.outputs import OUTPUTS, Outputs
from tercet.training.processes import Place
from tercet.training.recipe import TrainRecipe
from tercet.training.steps import make_optimizer


class Replicated:
    """All weights in each process; between several, accelerate averages gradients (DistributedDataParallel).

    Attributes:
        wrapped: the model, as batches are given to it.
        optimizer: over its weights.
    """

    shards = False

    def __init__(self, model: Trainable | TrainableReranker, recipe: TrainRecipe, where: Place) -> None:
        self.model = model
        self.accelerator = where.accelerator
        self.wrapped, self.optimizer = self.accelerator.prepare(
            model, make_optimizer(model, recipe.optimizer)
        )

    def encode(self, batch: Batch, heads: tuple[str, ...]) -> Outputs:
        """The outputs of packed texts."""
        return cast(Outputs, self.wrapped(batch, heads))

    def agreed(self, parts: int, heads: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
        """How many parts of a batch this process encodes, and for which heads: its own."""
        return parts, heads

    def without_sync(self) -> AbstractContextManager[object]:
        """A context for backward passes whose gradients are not averaged yet."""
        return cast(AbstractContextManager[object], self.accelerator.no_sync(self.wrapped))

    def clip(self, limit: float) -> float:
        """The length of all gradients, which are shortened to `limit`."""
        return float(self.accelerator.clip_grad_norm_(self.wrapped.parameters(), limit))

    def weights(self) -> dict[str, Tensor]:
        """Name -> all values."""
        return dict(self.model.state_dict())

    def moments(self) -> dict[str, Any]:
        """The optimizer's state, as torch's unsharded one has it."""
        return dict(self.optimizer.state_dict())

    def load(self, weights: Mapping[str, Tensor], moments: dict[str, Any]) -> None:
        """Takes up what `weights` and `moments` gave."""
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(moments)

    def kept(self, weights: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
        """What this process keeps of whole weights that were read."""
        return weights

    @contextmanager
    def showing(self, weights: Mapping[str, Tensor] | None = None) -> Iterator[None]:
        """A context in which the model has whole weights where it is saved: these, or its own."""
        if weights is not None:
            self.model.load_state_dict(weights)
        yield


class Sharded:
    """A part of every weight, gradient and moment in each process (FSDP2: torch's fully_shard).

    A layer's weights are gathered when it computes, and let go behind it; its gradients are averaged and cut
    at once, in each part of a batch, for whole ones are what is not to be held.

    Attributes:
        wrapped: the model, as batches are given to it.
        optimizer: over this process's parts.
    """

    shards = True

    def __init__(self, model: Trainable | TrainableReranker, recipe: TrainRecipe, where: Place) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self.model = model.to(where.accelerator.device)
        self.device = where.accelerator.device
        self.first = bool(where.accelerator.is_main_process)
        mesh = init_device_mesh(self.device.type, (where.processes,))
        self.wrapped = _Root(model)
        for _, layer in cast(Encoder, model.encoder).stages():
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)
        # Of the tables and heads, too, no process keeps all between two passes.
        fully_shard(self.wrapped, mesh=mesh, reshard_after_forward=True)
        self.optimizer = make_optimizer(model, recipe.optimizer)

    def encode(self, batch: Batch, heads: tuple[str, ...]) -> Outputs:
        """The outputs of packed texts; all processes take part."""
        return cast(Outputs, self.wrapped(batch, heads)[1])

    def agreed(self, parts: int, heads: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
        """The most parts that a process has of its batch, and the heads that any of them learns.

        Weights are gathered and gradients cut by all processes together, layer by layer: one that encoded
        fewer parts than another, or had no gradient of a head, would leave the rest waiting.
        """
        found = torch.tensor([parts, *(name in heads for name in OUTPUTS)], device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        most, *wanted = found.tolist()
        return most, tuple(name for name, any_wants in zip(OUTPUTS, wanted, strict=True) if any_wants)

    def without_sync(self) -> AbstractContextManager[object]:
        """Nothing: gradients that wait would be whole ones."""
        return nullcontext()

    def clip(self, limit: float) -> float:
        """The length of all gradients, those of other processes too, which are shortened to `limit`."""
        return float(_whole(nn.utils.clip_grad_norm_(self.model.parameters(), limit)))

    def weights(self) -> dict[str, Tensor]:
        """Name -> all values, on the CPU, in the first process; nothing in others, which take part."""
        return self._gathered(self.model.state_dict())

    def moments(self) -> dict[str, Any]:
        """The optimizer's state, as torch's unsharded one has it, in the first process; all take part."""
        found = self.optimizer.state_dict()
        state = {number: self._gathered(values) for number, values in found["state"].items()}
        return {**found, "state": state}

    def load(self, weights: Mapping[str, Tensor], moments: dict[str, Any]) -> None:
        """Takes up its part of what `weights` and `moments` gave, here or unsharded."""
        with torch.no_grad():
            for name, values in self.model.state_dict().items():
                values.copy_(_part(weights[name], values))
        state = {}
        parameters = [one for group in self.optimizer.param_groups for one in group["params"]]
        for number, values in moments["state"].items():
            like = parameters[number]
            state[number] = {
                name: _part(value, like) if value.shape == like.shape and value.ndim else value
                for name, value in values.items()
            }
        self.optimizer.load_state_dict({**moments, "state": state})

    def kept(self, weights: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
        """What this process keeps of whole weights that were read: all of them the first, nothing others."""
        return weights if self.first or weights is None else {}

    @contextmanager
    def showing(self, weights: Mapping[str, Tensor] | None = None) -> Iterator[None]:
        """A context in which the first process's model has whole weights: these, or its own; all enter it."""
        whole = self.weights() if weights is None else weights
        parts: list[tuple[nn.Module, str, nn.Parameter]] = []
        if self.first:
            for name, parameter in list(self.model.named_parameters()):
                owner, _, key = name.rpartition(".")
                module = self.model.get_submodule(owner)
                parts.append((module, key, parameter))
                module._parameters[key] = nn.Parameter(whole[name], requires_grad=False)
        try:
            yield
        finally:
            for module, key, parameter in parts:
                module._parameters[key] = parameter

    def _gathered(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Whole tensors on the CPU, one after another, in the first process alone."""
        found = {}
        for name, value in values.items():
            whole = _whole(value) if isinstance(value, Tensor) else value
            if self.first:
                found[name] = whole.detach().cpu() if isinstance(whole, Tensor) else whole
        return found


class _Root(nn.Module):
    """A model whose outputs FSDP finds: it looks into lists, and no further, for tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, heads: tuple[str, ...]) -> tuple[Sequence[Tensor], Outputs]:
        outputs: Outputs = self.model(batch, heads)
        return outputs.tensors(), outputs


def hold(model: Trainable | TrainableReranker, recipe: TrainRecipe, where: Place) -> Replicated | Sharded:
    """The model and its optimizer, held as the recipe says."""
    return (Sharded if recipe.shard else Replicated)(model, recipe, where)


def _whole(value: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value


def _part(whole: Tensor, like: Tensor) -> Tensor:
    """Of a tensor that all processes have, the part that this one has of `like`."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
