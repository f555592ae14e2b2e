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
from pathlib import Path
from time import perf_counter

SOURCE = Path(__file__).resolve().parent / "peak.c"
DTYPES = ("float64", "float32", "bfloat16", "float16", "int8")
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


def products(seconds: float = 0.5) -> dict[str, float]:
    """GFLOP/s by dtype of torch's best matrix product on an encoder's shapes."""
    import torch

    best: dict[str, float] = {}
    for dtype in DTYPES:
        for rows, columns in LAYERS:
            if dtype == "int8":
                left = torch.ones(TOKENS, rows, dtype=torch.int8)
                right = torch.ones(rows, columns, dtype=torch.int8)

                def multiply(left: torch.Tensor = left, right: torch.Tensor = right) -> object:
                    return torch._int_mm(left, right)
            else:
                left = torch.rand(TOKENS, rows).to(getattr(torch, dtype))
                right = torch.rand(columns, rows).to(getattr(torch, dtype))

                def multiply(left: torch.Tensor = left, right: torch.Tensor = right) -> object:
                    return torch.nn.functional.linear(left, right)

            multiply()
            end = perf_counter() + seconds
            while perf_counter() < end:
                started = perf_counter()
                multiply()
                rate = 2e-9 * TOKENS * rows * columns / (perf_counter() - started)
                best[dtype] = max(best.get(dtype, 0.0), rate)
    return best


def measure() -> dict[str, dict[str, float]]:
    """Both, each in a process of its own, so that neither finds the other's threads."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    command = [sys.executable, str(Path(__file__).resolve()), "--products"]
    found = json.loads(subprocess.check_output(command, text=True))
    return {"instructions": instructions(threads), "products": found}


if __name__ == "__main__":
    print(json.dumps(products() if "--products" in sys.argv else measure(), indent=1))
