"""The machine and the versions that a run belongs to."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from pathlib import Path
from typing import Any

import environments
from engines import ROOT

# What decides which kernels a library may take.
TELLING = re.compile(r"^(avx2|fma|f16c|avx512\w*|avx_vnni|amx\w*|asimd\w*|sve\w*|bf16|i8mm)$")
# What decides a sample: the library with its compiled kernels, the workers and their versions, the models,
# the texts, and how they are timed. Pages, goals and pictures can change without a new measurement.
CODE = ("src/tercet", "benchmarks/workers", "benchmarks/requirements")
HOW = (
    "drift", "export", "make_bge_m3", "measure", "peak", "processes", "quiet", "retrieval", "speed", "starts",
    "workloads",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """Name, flags, cores and memory."""
    path = Path("/proc/cpuinfo")
    info = path.read_text(encoding="utf-8") if path.exists() else ""
    fields = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", info, re.MULTILINE))
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "model": " ".join(
            f"{key} {fields[key]}" for key in ("cpu family", "model", "stepping") if key in fields
        ),
        "flags": sorted(flag for flag in flags if TELLING.match(flag)),
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Of Tercet, its torch, and everything that it is compared with."""
    from importlib.metadata import version

    return {"tercet": version("tercet"), **environments.pins(), "torch": version("torch")}


def code() -> str:
    """A hash of what is measured and how, so that samples of another state are not mixed in."""
    digest = hashlib.sha256()
    paths = [path for folder in CODE for path in sorted((ROOT / folder).rglob("*"))]
    paths += [path for name in HOW for path in sorted((ROOT / "benchmarks").glob(f"{name}.*"))]
    for path in paths:
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
