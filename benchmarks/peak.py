"""What this chip could do: the instructions' own peak by a C program, and the best matrix product of torch.

python benchmarks/peak.py
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

SOURCE = Path(__file__).resolve().parent / "peak.c"
# (in, out) of a large encoder's linear layers
LAYERS = ((1024, 3072), (1024, 4096), (4096, 1024))
TOKENS = 2048


def instructions(threads: int) -> dict[str, float]:
    """GFLOP/s by dtype from registers alone; empty where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder, "peak"))
        command = [compiler, "-O2", "-march=native", "-pthread", str(SOURCE), "-o", program]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return {}
        found: dict[str, float] = json.loads(subprocess.check_output([program, str(threads)], text=True))
    return found


def products(seconds: float = 0.4) -> dict[str, float]:
    """GFLOP/s by dtype of torch's best matrix product on an encoder's shapes."""
    import torch

    best: dict[str, float] = {}
    for name, dtype, multiply in ways():
        for rows, columns in LAYERS:
            left, right = (torch.ones(count, rows).to(getattr(torch, dtype)) for count in (TOKENS, columns))
            try:
                multiply(left, right)
            except (RuntimeError, AttributeError) as error:
                print(f"{name} does not do {dtype} here: {error}", file=sys.stderr)
                break
            end = perf_counter() + seconds
            while perf_counter() < end:
                started = perf_counter()
                multiply(left, right)
                rate = 2e-9 * TOKENS * rows * columns / (perf_counter() - started)
                best[dtype] = max(best.get(dtype, 0.0), rate)
    return best


def ways() -> Iterator[tuple[str, str, Callable[[Any, Any], Any]]]:
    """(name, dtype, x weight'): what torch itself takes, and oneDNN by the operation its compiler calls."""
    import torch

    for dtype in ("float64", "float32", "bfloat16", "float16"):
        yield "torch", dtype, torch.nn.functional.linear
    for dtype in ("float32", "bfloat16", "float16"):
        yield "oneDNN", dtype, lambda x, w: torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")
    yield "torch", "int8", lambda x, w: torch._int_mm(x, w.T)


def measure() -> dict[str, dict[str, float]]:
    """Both, each in a process of its own, so that neither finds the other's threads."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    command = [sys.executable, str(Path(__file__).resolve()), "--products"]
    found = json.loads(subprocess.check_output(command, text=True))
    return {"instructions": instructions(threads), "products": found}


if __name__ == "__main__":
    print(json.dumps(products() if "--products" in sys.argv else measure(), indent=1))
