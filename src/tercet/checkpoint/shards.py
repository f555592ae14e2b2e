"""Which tensors lie in which safetensors file and where, before any is written."""

from __future__ import annotations

__all__ = ["TensorPlan", "header_of", "num_bytes", "split_by_size"]

import json
from collections.abc import Mapping
from math import prod
from typing import Any

from tercet.checkpoint.header import DTYPE_NAMES, SAFETENSORS_DTYPES

# name -> torch's name of the dtype, shape
TensorPlan = Mapping[str, tuple[str, tuple[int, ...]]]
# The order of the library's own enumeration; "wide first" is its reverse.
_DTYPE_ORDER = {
    name: rank
    for rank, name in enumerate(
        (
            "bool",
            "uint8",
            "int8",
            "float8_e5m2",
            "float8_e4m3fn",
            "int16",
            "uint16",
            "float16",
            "bfloat16",
            "int32",
            "uint32",
            "float32",
            "float64",
            "int64",
            "uint64",
        )
    )
}


def split_by_size(plan: TensorPlan, max_bytes: int) -> list[list[str]]:
    """Names by shard; sorted, so that the same tensors always make the same shards."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name in sorted(plan):
        size = num_bytes(plan[name])
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def header_of(plan: TensorPlan) -> tuple[bytes, dict[str, int]]:
    """The first bytes of a file with these tensors, and where each begins."""
    # As the safetensors library has it: wide dtypes first, so that all are aligned; then by name.
    order = sorted(plan, key=lambda name: (-_DTYPE_ORDER[plan[name][0]], name))
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offsets, reached = {}, 0
    for name in order:
        dtype, shape = plan[name]
        offsets[name] = reached
        reached += num_bytes(plan[name])
        entries[name] = {
            "dtype": DTYPE_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offsets[name], reached],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {name: start + offset for name, offset in offsets.items()}


def num_bytes(entry: tuple[str, tuple[int, ...]]) -> int:
    """Of a tensor, by its dtype and shape."""
    dtype, shape = entry
    return prod(shape) * SAFETENSORS_DTYPES[DTYPE_NAMES[dtype]][1]
