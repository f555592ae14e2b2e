"""A weight as the native products read it."""

from __future__ import annotations

__all__ = ["LAYOUT", "PANEL", "PackedWeight", "data_bytes"]

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tercet.errors import InputError, nearest

# Raised with every change of what the bytes mean: a stored weight of another layout is packed anew.
LAYOUT = 1
PANEL = 32  # outputs that lie together
LINE = 16  # inputs of "float32" that a whole number of is stored
HALF_LINE = 32  # the same of "float16"
CHUNK = 64  # inputs that lie together; the group of "int8"
ALIGNMENT = 64
# Exact sums of products of bytes stay within 32 bits.
MOST_INPUTS = 1 << 16


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight (out, in), quantised and laid out for a product.

    The bytes are the same for every instruction level; a file that holds them can be mapped and used as it
    lies.

    Attributes:
        out_features, in_features: the weight's shape.
        scheme: what its numbers are: "float32", "float16", "int8" or "int8-fast".
        level: the instruction level that runs it.
        data: uint8, one dimension, contiguous, 64-byte aligned: panels with their scales and sums.
    """

    out_features: int
    in_features: int
    scheme: str
    level: str
    data: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """That the bytes are as many as the shape and scheme ask for, and lie where a product can read them.

        Raises:
            InputError: they are not.
        """
        wanted = data_bytes(self.out_features, self.in_features, self.scheme)
        data = self.data
        if (
            data.dtype is not torch.uint8
            or data.ndim != 1
            or data.device.type != "cpu"
            or len(data) != wanted
        ):
            raise InputError(
                f"The data of {self} is {tuple(data.shape)} {data.dtype} on {data.device}, not ({wanted},) "
                "torch.uint8 on cpu. Pack the weight anew."
            )
        if not data.is_contiguous() or data.data_ptr() % ALIGNMENT:
            raise InputError(f"The data of {self} is not aligned to {ALIGNMENT} bytes. Copy it with clone().")


def data_bytes(out_features: int, in_features: int, scheme: str) -> int:
    """The bytes of a packed weight.

    Raises:
        InputError: the shape or scheme cannot be packed.
    """
    if out_features < 1 or not 1 <= in_features <= MOST_INPUTS:
        raise InputError(
            f"A weight of {out_features} outputs and {in_features} inputs cannot be packed: there must be "
            f"outputs, and 1 to {MOST_INPUTS} inputs."
        )
    panels, chunks = -(-out_features // PANEL), -(-in_features // CHUNK)
    # Beside its weights a panel has a sum and a scale for every output, 4 bytes each: once, or every chunk.
    sizes = {
        "float32": -(-in_features // LINE) * LINE * 4 * PANEL,
        "float16": -(-in_features // HALF_LINE) * HALF_LINE * 2 * PANEL,
        "int8": chunks * (CHUNK + 8) * PANEL,
        "int8-fast": (chunks * CHUNK + 8) * PANEL,
    }
    if scheme not in sizes:
        raise InputError(f"There is no scheme {scheme!r} of packed weights. {nearest(scheme, sizes)}")
    return panels * sizes[scheme]
