"""What a device can do: memory, CPU features, and the table that probes fill."""

from __future__ import annotations

__all__ = ["Capability", "Measured"]

from collections.abc import Mapping
from dataclasses import dataclass, field

from tercet.precision.scheme import Drift, Scheme


@dataclass(frozen=True, slots=True)
class Measured:
    """What a probe found of one scheme on one device.

    Attributes:
        relative_seconds: time of a typical packed forward's matrix products relative to float32 (1.0); None if it does not run.
        max_error: largest error of those products against float64, relative to the largest exact value; None if it does not run.
        native: True where the hardware computes in the format, False where it is emulated, None where the timing cannot tell.
        failure: the framework's own message of the operation that does not run, with that operation's name; None if all run.
        drift: the scheme's stated drift on real texts, if one is stated.
    """

    relative_seconds: float | None
    max_error: float | None
    native: bool | None
    failure: str | None = None
    drift: Drift | None = None


@dataclass(frozen=True, slots=True)
class Capability:
    """One device, as probed.

    Attributes:
        device: torch's name: "cpu", "cuda:0", "mps".
        name: what people call it.
        total_bytes: its memory, cgroup limits counted.
        free_bytes: what of it is really free now.
        threads: torch's intra-op threads when it was probed.
        features: CPU flags or GPU compute capability that matter to a reader.
        schemes: what was measured, by scheme.
        quiet: False where other processes disturbed the probe even after repetition; such a table is never remembered.
    """

    device: str
    name: str
    total_bytes: int
    free_bytes: int
    threads: int
    features: tuple[str, ...] = ()
    schemes: Mapping[Scheme, Measured] = field(default_factory=dict)
    quiet: bool = True
