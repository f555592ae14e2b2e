"""What stands between the encoder and a vector, one file a part; all work in the heads' dtype, float32."""

from __future__ import annotations

__all__ = ["MODULES", "ModuleFactory", "Tokens", "weight"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from tercet.batch import Batch
from tercet.checkpoint.layout import ModuleSpec
from tercet.errors import CheckpointError, nearest
from tercet.registry import Registry

Read = Callable[[str], Tensor]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token vectors on their way to the pooling: what modules in front of it take and give.

    Attributes:
        vectors: (tokens, width) in the heads' dtype.
        batch: where each text lies among them.
        weight_sums: (texts,) what a mean divides by instead of the number of tokens; None for that number.
    """

    vectors: Tensor
    batch: Batch
    weight_sums: Tensor | None = None


class ModuleFactory(Protocol):
    """Builds a part from its description.

    `width` is the size of the vectors that reach it, `read(name)` gives one of its tensors in the heads'
    dtype. The module that comes back has `out_width`, the size of the vectors that leave it.
    """

    def __call__(self, spec: ModuleSpec, width: int, read: Read) -> nn.Module:
        """The module."""
        ...


MODULES: Registry[ModuleFactory] = Registry("module", "tercet.modules")


def weight(spec: ModuleSpec, name: str, shape: tuple[int | None, ...], read: Read) -> Tensor:
    """A tensor of a module, its shape checked before it is read; None in `shape` stands for any size."""
    if name not in spec.tensors:
        raise CheckpointError(f"{spec.where}: there is no tensor {name!r}. {nearest(name, spec.tensors)}")
    info = spec.tensors[name]
    if len(info.shape) != len(shape) or any(
        want is not None and have != want for have, want in zip(info.shape, shape, strict=True)
    ):
        wanted = tuple("any" if size is None else size for size in shape)
        raise CheckpointError(
            f"{info.file}: {name!r} is {info.shape}, it must be {wanted} to fit the vectors that reach it. "
            "The file belongs to another model."
        )
    return read(name)
