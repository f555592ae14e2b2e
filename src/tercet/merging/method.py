"""What a merge method is: passes over the chunks of a tensor, then arithmetic on each chunk, all pure."""

from __future__ import annotations

__all__ = [
    "REQUIRED",
    "Apply",
    "Asked",
    "Chunk",
    "Method",
    "OnThreshold",
    "Parameter",
    "Pass",
    "Statistics",
    "Steps",
    "Task",
    "last_dimension",
]

import hashlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from operator import add
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor

S = TypeVar("S")

REQUIRED = object()


@dataclass(frozen=True, slots=True)
class Chunk:
    """The same numbers of every input of one tensor.

    Attributes:
        inputs: each (rows, width), float32 or float64, in the order of the recipe, the base left out where
            the method treats it apart.
        base: the same of the base model, or None.
        first: the place of its first number in the flattened tensor.
    """

    inputs: tuple[Tensor, ...]
    base: Tensor | None
    first: int

    def deltas(self) -> list[Tensor]:
        """What each input adds to the base, in float64: what is chosen by them is chosen exactly."""
        assert self.base is not None
        base = self.base.double()
        return [tensor.double() - base for tensor in self.inputs]


@dataclass(frozen=True, slots=True)
class Pass(Generic[S]):
    """One pass over a tensor: what a chunk says, and how two such are put together (added, unless said)."""

    statistics: Callable[[Chunk], S]
    merge_statistics: Callable[[S, S], S] = add


@dataclass(frozen=True, slots=True)
class OnThreshold:
    """For the report: how many entries lie exactly where a choice is made, so that their place decides."""

    count: int


Apply: TypeAlias = Callable[[Chunk], Tensor]
Asked: TypeAlias = Pass[Any] | OnThreshold
# Asks for passes one after the other, is sent what each found in the whole tensor, and gives the arithmetic.
Steps: TypeAlias = Generator[Asked, Any, Apply]


@dataclass(frozen=True, slots=True)
class Statistics:
    """What was gathered on texts for one input of a tensor.

    Attributes:
        part: numbers of it, flattened, from one place to another, in float64.
        mean: of Fisher information: that of all numbers of the model.
    """

    part: Callable[[int, int], Tensor]
    mean: float = 1.0


@dataclass(frozen=True, slots=True)
class Task:
    """One tensor to merge.

    Attributes:
        name: what it will be called in the output.
        shape: its sizes.
        settings: the parameters that it has once.
        of_inputs: those of each input, in the order of `Chunk.inputs`.
        seed: the recipe's; with the name and the input it fixes every random choice.
        statistics: of each input, for a method that needs them; empty where there are none of this tensor.
    """

    name: str
    shape: tuple[int, ...]
    settings: Mapping[str, Any]
    of_inputs: tuple[Mapping[str, Any], ...]
    seed: int = 0
    statistics: tuple[Statistics, ...] = ()

    @property
    def numbers(self) -> int:
        """How many numbers it has."""
        return int(torch.Size(self.shape).numel())

    def values(self, name: str) -> list[Any]:
        """One parameter of every input."""
        return [settings[name] for settings in self.of_inputs]

    def seed_of(self, number: int) -> int:
        """64 bits for the random choices of one input, the same wherever this tensor is merged."""
        text = f"{self.seed}\0{self.name}\0{number}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a method.

    Attributes:
        name: as recipes have it.
        kind: float, int, bool or str.
        default: its value where the recipe has none; `REQUIRED` for an error.
        per_input: whether each input has its own.
        least: the smallest number that it may be; None for any.
        share: whether it is the part of all entries that is kept, which larger numbers than 1 do not change.
    """

    name: str
    kind: type
    default: Any = REQUIRED
    per_input: bool = False
    least: float | None = None
    share: bool = False


@dataclass(frozen=True, slots=True)
class Method:
    """A merge method.

    Attributes:
        name: as recipes have it.
        steps: the method itself.
        parameters: what may be set.
        base: "required", "optional", or "input": then it is one of the inputs where it is named at all.
        inputs: fewest and most inputs beside the base (of all, where the base is an input); None for any.
        width: how many numbers make a row, of which a chunk has whole ones; 0 where it may be cut anywhere.
        summary: the first line of its description.
        statistics: what it needs that was gathered on texts: Gram matrices, Fisher information, or nothing.
        held: the bytes that it holds of a tensor with so many inputs at once; None for what chunks take.
    """

    name: str
    steps: Callable[[Task], Steps]
    parameters: tuple[Parameter, ...]
    base: Literal["required", "optional", "input"]
    inputs: tuple[int, int | None]
    width: Callable[[Task], int]
    summary: str
    statistics: Literal["gram", "fisher"] | None = None
    held: Callable[[Task, int], int] | None = None


def last_dimension(task: Task) -> int:
    """The width of a row: the last size, or that of a vector as a whole."""
    return max(1, task.shape[-1]) if task.shape else 1
