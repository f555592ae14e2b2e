"""Capabilities and footprints made up for tests of the planner."""

from __future__ import annotations

__all__ = ["DRIFTED", "UNSEEN", "capability", "footprint", "measured", "scheme"]

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tercet.precision.dtype import DType
from tercet.precision.footprint import Footprint
from tercet.precision.hardware import Capability, Measured
from tercet.precision.scheme import Drift, Scheme

UNSEEN = (1.6e-6, 9.7e-6)
DRIFTED = (4.7e-5, 8e-5)

_BGE_M3 = Footprint(
    name="bge-m3",
    architecture="xlm-roberta",
    file_format="safetensors",
    stored={"float32": 567_754_752 + 1_050_625},
    body_numbers=566_705_152,
    head_numbers=1_050_625,
    largest_tensor=250_002 * 1024,
    hidden=1024,
    layers=24,
    attention_heads=16,
    intermediate=4096,
    vocabulary=250_002,
    max_tokens=8192,
    outputs=("dense", "sparse", "multivector"),
    dense_dim=1024,
    multivector_dim=1024,
    fused_numbers=24 * 3 * (1024 * 1024 + 1024),
)


def scheme(dtype: DType, engine: str = "torch_packed") -> Scheme:
    """A scheme that accumulates in float32 or wider."""
    return Scheme(dtype, dtype if dtype.bytes > 4 else DType.FLOAT32, None, engine)


def measured(
    seconds: float | None,
    drift: tuple[float, float] | None = (0.0, 0.0),
    *,
    failure: str | None = None,
    quiet: bool = True,
) -> Measured:
    """A row of a probe; drift as (mean, worst)."""
    stated = None if drift is None else Drift(*drift, "a test")
    return Measured(seconds, None if seconds is None else 1e-6, None, failure, stated, quiet)


def capability(table: Mapping[DType | Scheme, Measured], **changes: Any) -> Capability:
    """A CPU with 16 GB free; a dtype stands for its scheme in torch_packed."""
    schemes = {key if isinstance(key, Scheme) else scheme(key): row for key, row in table.items()}
    whole = Capability("cpu", "a CPU", 24 * 10**9, 16 * 10**9, 2, (), schemes)
    return replace(whole, **changes)


def footprint(**changes: Any) -> Footprint:
    """BGE-M3's numbers, some of them changed."""
    return replace(_BGE_M3, **changes)
