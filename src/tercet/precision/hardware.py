"""What a device can do: where it is, its memory, CPU features, and the table that probes fill."""

from __future__ import annotations

__all__ = [
    "Capability",
    "Measured",
    "cpu_features",
    "cpu_name",
    "device_features",
    "device_name",
    "devices",
    "find_device",
    "schemes_from_json",
    "schemes_to_json",
]

import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tercet.errors import PrecisionError
from tercet.precision.scheme import Drift, Scheme

# What a reader wants to see of a CPU. Nothing is decided by these: a flag says that an instruction exists,
# not that it is fast.
_RELEVANT = re.compile(
    r"^(fma|f16c|avx2|avx512_?\w+|avx_vnni\w*|avx_ne_convert|avx10\w*|amx_\w+"
    r"|asimd\w*|fphp|i8mm|bf16|sve\w*|sme\d*|neon|feat_(fp16|bf16|i8mm|dotprod|sme\d*))$"
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a probe found of one scheme on one device.

    Attributes:
        relative_seconds: time of a typical packed forward's matrix products relative to float32 (1.0); None
            if it does not run.
        max_error: largest error of those products against float64, relative to the largest exact value; None
            if it does not run.
        native: True where the hardware computes in the format, False where it is emulated, None where the
            timing cannot tell.
        failure: the framework's own message of the operation that does not run, with that operation's name;
            None if all run.
        drift: the scheme's stated drift on real texts, if one is stated.
        quiet: False where other processes disturbed the timing even after repetition.
        kernel: which of the engine's ways to do a product was the fastest; for the engine's own use.
        keeps_memory: whether the memory of results serves again, so that they leave no holes in the heap.
    """

    relative_seconds: float | None
    max_error: float | None
    native: bool | None
    failure: str | None = None
    drift: Drift | None = None
    quiet: bool = True
    kernel: str | None = None
    keeps_memory: bool = False

    @property
    def runs(self) -> bool:
        """Whether every operation runs."""
        return self.failure is None

    def to_json(self) -> dict[str, Any]:
        """Field -> plain value."""
        return {
            "relative_seconds": self.relative_seconds,
            "max_error": self.max_error,
            "native": self.native,
            "failure": self.failure,
            "drift": None if self.drift is None else self.drift.to_json(),
            "quiet": self.quiet,
            "kernel": self.kernel,
            "keeps_memory": self.keeps_memory,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Measured:
        """The inverse of `to_json`."""
        return cls(**{**data, "drift": None if data["drift"] is None else Drift(**data["drift"])})


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
        quiet: False where others disturbed the probe even after repetition; such a table stands for an hour.
        memory_limit: what decided `free_bytes`: "the machine", a cgroup's folder, "the GPU".
    """

    device: str
    name: str
    total_bytes: int
    free_bytes: int
    threads: int
    features: tuple[str, ...] = ()
    schemes: Mapping[Scheme, Measured] = field(default_factory=dict)
    quiet: bool = True
    memory_limit: str = "the machine"

    def to_json(self) -> dict[str, Any]:
        """Field -> plain value; the schemes as a list of their fields and what was measured."""
        return {
            "device": self.device,
            "name": self.name,
            "total_bytes": self.total_bytes,
            "free_bytes": self.free_bytes,
            "memory_limit": self.memory_limit,
            "threads": self.threads,
            "features": list(self.features),
            "schemes": schemes_to_json(self.schemes),
            "quiet": self.quiet,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Capability:
        """The inverse of `to_json`."""
        schemes = schemes_from_json(data["schemes"])
        return cls(**{**data, "features": tuple(data["features"]), "schemes": schemes})


def schemes_to_json(schemes: Mapping[Scheme, Measured]) -> list[dict[str, Any]]:
    """The table of schemes as plain values."""
    return [{"scheme": scheme.to_json(), **measured.to_json()} for scheme, measured in schemes.items()]


def schemes_from_json(rows: list[dict[str, Any]]) -> dict[Scheme, Measured]:
    """The inverse of `schemes_to_json`."""
    return {
        Scheme.from_json(row["scheme"]): Measured.from_json({k: v for k, v in row.items() if k != "scheme"})
        for row in rows
    }


def devices() -> list[str]:
    """The devices that torch can use here, best first."""
    import torch

    found = (
        [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def find_device(wish: object = None, available: list[str] | None = None) -> str:
    """Torch's name of the device that "cpu", "gpu", "cuda:1", 1 or a torch.device means; the best of None.

    Args:
        wish: what the user said.
        available: what is there, best first; asked of torch where None.

    Raises:
        PrecisionError: no such device here; the message lists what is there.
    """
    available = devices() if available is None else available
    if wish is None:
        return available[0]
    spelling = str(wish).strip().lower()
    if spelling in ("auto", "best"):
        return available[0]
    if spelling.isdigit():
        spelling = f"cuda:{spelling}"
    spelling = {"cpu:0": "cpu", "mps:0": "mps", "metal": "mps", "cuda": "cuda:0", "gpu": "cuda:0"}.get(
        spelling, spelling
    )
    spelling = re.sub(r"^gpu:(\d+)$", r"cuda:\1", spelling)
    if isinstance(wish, bool) or spelling not in available:
        raise PrecisionError(
            f"device={wish!r}: no such device here. There is: {', '.join(available)}. "
            "Leave the device out to take the first of these."
        )
    return spelling


def device_name(device: str) -> str:
    """What people call a device."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return cpu_name()  # an Apple chip's GPU has no name of its own


def device_features(device: str) -> tuple[str, ...]:
    """CPU flags, or a GPU's compute capability; for readers and for the key of a probe."""
    if device.startswith("cuda"):
        import torch

        major, minor = torch.cuda.get_device_capability(device)
        return (f"sm_{major}{minor}",)
    return cpu_features()


def cpu_name(root: Path = Path("/")) -> str:
    """What people call this CPU, as well as the system knows it."""
    text = _cpuinfo(root)
    found = re.search(r"^(?:model name|Processor|cpu model)\s*:\s*(.+)$", text, re.MULTILINE)
    if found:
        family = re.search(r"^cpu family\s*:\s*(\d+)$", text, re.MULTILINE)
        model = re.search(r"^model\s*:\s*(\d+)$", text, re.MULTILINE)
        numbers = f" (family {family[1]}, model {model[1]})" if family and model else ""
        return found[1].strip() + numbers
    if sys.platform == "darwin" and root == Path("/"):
        return _sysctl("-n", "machdep.cpu.brand_string").strip() or platform.machine()
    part = re.search(r"^CPU part\s*:\s*(\w+)$", text, re.MULTILINE)
    return f"{platform.machine()} (part {part[1]})" if part else platform.machine() or "unknown CPU"


def cpu_features(root: Path = Path("/")) -> tuple[str, ...]:
    """The CPU's flags that matter to number formats, sorted; for readers and for the key of a probe."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo(root), re.MULTILINE)
    flags = found[1].split() if found else []
    if sys.platform == "darwin" and root == Path("/"):
        flags = [
            name.lower() for name in re.findall(r"hw\.optional\.(?:arm\.)?(\w+): 1", _sysctl("hw.optional"))
        ]
    return tuple(sorted({flag for flag in flags if _RELEVANT.match(flag)}))


def _cpuinfo(root: Path) -> str:
    try:
        return (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _sysctl(*arguments: str) -> str:
    return subprocess.run(
        ["/usr/sbin/sysctl", *arguments], capture_output=True, text=True, check=False
    ).stdout
