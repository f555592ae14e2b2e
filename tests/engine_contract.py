"""Every scheme of every engine that a CPU may have, and how far its results may be off."""

from __future__ import annotations

__all__ = ["SCHEMES", "Subject", "distances"]

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tercet
from tercet.checkpoint.layout import open_checkpoint
from tercet.embedder import Embedder
from tercet.engines import ENGINES, Engine, EngineKind
from tercet.precision.dtype import DType
from tercet.precision.hardware import Capability, Measured
from tercet.precision.memory import host_memory
from tercet.precision.plan import Plan
from tercet.precision.scheme import Scheme

SCHEMES: Sequence[Scheme] = tuple(
    dict.fromkeys(scheme for name in ENGINES.names() for scheme in ENGINES[name].schemes("cpu"))
)

# Relative distances in roundings of the scheme's dtype. float32 and wider: sums of up to 256 products round,
# too; elsewhere operands alone do, in the dozen products behind each other of these tiny models.
_FROM_EXACT_PLAIN, _FROM_EXACT = 50, 16
_FROM_EXACT_SUMS = 32  # where sums of products are in that dtype as well
_ALIKE = {DType.FLOAT64: 1e-14, DType.FLOAT32: 1e-6}
_ALIKE_ROUNDINGS = 4


@dataclass(frozen=True)
class Subject:
    """One scheme of one engine as measured here, and what it may be off by."""

    scheme: Scheme
    measured: Measured

    @cached_property
    def kind(self) -> EngineKind:
        """The engine's entry."""
        return ENGINES[self.scheme.engine]

    @property
    def same_bits(self) -> bool:
        """Whether the engine promises a text's very bits, whatever it is computed beside."""
        return bool(getattr(self.kind, "batch_invariant", False))

    @property
    def from_exact(self) -> float:
        """Largest |found - exact| / |exact| of a tiny model's text."""
        if self.scheme.is_plain:
            roundings = _FROM_EXACT_PLAIN
        else:
            roundings = _FROM_EXACT_SUMS if self.scheme.accumulate is self.scheme.dtype else _FROM_EXACT
        return roundings * self.scheme.dtype.unit_roundoff

    @property
    def from_exact_out(self) -> float:
        """The same of embeddings, which come out in float32."""
        return max(self.from_exact, 2 * DType.FLOAT32.unit_roundoff)

    @property
    def alike(self) -> float:
        """Largest |one - other| / |one| of a text computed twice, beside other texts or by other threads."""
        if self.scheme.is_plain:
            return _ALIKE[self.scheme.dtype]
        return _ALIKE_ROUNDINGS * self.scheme.dtype.unit_roundoff

    @property
    def alike_out(self) -> float:
        """The same of embeddings, which come out in float32; of every number of vectors of unit length."""
        return max(self.alike, _ALIKE[DType.FLOAT32])

    def plan(self, folder: Path, **options: Any) -> Plan:
        """The plan of a checkpoint on a machine that has nothing but this scheme."""
        memory = host_memory()
        here = Capability(
            device="cpu",
            name="this CPU",
            total_bytes=memory.total_bytes,
            free_bytes=memory.free_bytes,
            threads=torch.get_num_threads(),
            schemes={self.scheme: self.measured},
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tercet.planner.making.capability", lambda device=None: here)
            found = tercet.plan(folder, precision=self.scheme.label, device="cpu", **options)
        assert found.scheme == self.scheme
        return found

    def open(self, folder: Path) -> Engine:
        """The body of a checkpoint."""
        return self.kind.open(open_checkpoint(folder), self.plan(folder))

    def load(self, folder: Path, *, pooling: str | None = None, **options: Any) -> Embedder:
        """The whole model."""
        return tercet.load(folder, plan=self.plan(folder, pooling=pooling, **options), pooling=pooling)


def distances(found: Tensor, wanted: object, lengths: Sequence[int]) -> list[float]:
    """|found - wanted| / |wanted| of the rows of each text; not-a-number where a value is not finite."""
    theirs = torch.from_numpy(wanted) if isinstance(wanted, np.ndarray) else wanted
    assert isinstance(theirs, Tensor)
    assert found.shape == theirs.shape
    pairs = zip(found.double().split(list(lengths)), theirs.double().split(list(lengths)), strict=True)
    return [float((one - other).norm() / other.norm()) for one, other in pairs]
