"""How torch's number formats are measured on a device: do the encoder's operations run, how fast, how
exactly.

Nothing here knows any hardware: a format is judged by what it does. Timings are interleaved, the best of
    several,
and judged for disturbance by how long our threads waited for a processor and how far repeated samples lie
apart.
"""

from __future__ import annotations

__all__ = ["STATED_DRIFT", "probe_torch", "time_interleaved"]

import logging
from collections.abc import Callable, Hashable, Iterable, Mapping
from math import ceil, exp, log
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from tercet.precision.dtype import DType
from tercet.precision.hardware import Measured
from tercet.precision.scheme import Drift, Scheme

logger = logging.getLogger(__name__)
K = TypeVar("K", bound=Hashable)

_STUDY = "all-MiniLM-L6-v2, 256 texts, torch 2.13 on a CPU, from a study before this release"
# How far dense vectors move from float32 on real texts (benchmarks/scheme_drift.py measures it).
STATED_DRIFT: Mapping[DType, Drift] = {
    DType.FLOAT64: Drift(0.0, 0.0, "wider than float32"),
    DType.FLOAT32: Drift(0.0, 0.0, "the reference itself"),
    DType.BFLOAT16: Drift(4.7e-5, 8.0e-5, _STUDY),
    DType.FLOAT16: Drift(1e-6, 2e-6, _STUDY),
}

# (tokens, in, out) of a small and of a large encoder's products; a GPU is only busy with more tokens.
_CPU_SHAPES = ((256, 384, 1536), (512, 1024, 1024))
_GPU_SHAPES = ((2048, 384, 1536), (4096, 1024, 4096))
_BUDGET_SECONDS = 0.3  # timing of one shape, all formats together
_ATTEMPTS = 3  # of a disturbed probe
_MOST_ROUNDS, _FEWEST_ROUNDS = 9, 3
# Beyond these the machine was not ours: share of the time that threads waited for a processor; median over
# best sample.
_MOST_WAITING, _MOST_SPREAD = 0.05, 1.25


def probe_torch(
    device: str, schemes: Iterable[Scheme], *, attempts: int = _ATTEMPTS
) -> dict[Scheme, Measured]:
    """What torch does with each scheme on a device, against float32 in the same run.

    Args:
        device: torch's name of it.
        schemes: what to measure; only their dtype matters here.
        attempts: how often a disturbed timing is tried; the last is given back as not quiet.
    """
    wanted = list(schemes)
    place = torch.device(device)
    with torch.inference_mode():
        failures = {dtype: _failure(place, dtype) for dtype in {scheme.dtype for scheme in wanted}}
        runnable = [dtype for dtype, failure in failures.items() if failure is None]
        seconds, quiet = _time_dtypes(place, {*runnable, DType.FLOAT32}, attempts)
        errors = {dtype: _max_error(place, dtype) for dtype in runnable}
    measured = {}
    for scheme in wanted:
        dtype = scheme.dtype
        drift, failure = STATED_DRIFT.get(dtype), failures[dtype]
        if failure is not None:
            measured[scheme] = Measured(None, None, None, failure, drift, quiet)
            continue
        relative = seconds[dtype] / seconds[DType.FLOAT32]
        native = _native(dtype, relative, errors[dtype])
        measured[scheme] = Measured(relative, errors[dtype], native, None, drift, quiet)
    return measured


def time_interleaved(
    work: Mapping[K, Callable[[], object]],
    *,
    budget_seconds: float = _BUDGET_SECONDS,
    synchronise: Callable[[], object] = lambda: None,
) -> tuple[dict[K, float], bool]:
    """Best seconds of one call of each piece of work, and whether the machine was quiet meanwhile.

    Every round calls each once, so that what disturbs one disturbs all. A piece that would eat the budget
    alone is
    timed once; so the whole stays near the budget even on a slow machine.
    """
    samples: dict[K, list[float]] = {key: [] for key in work}
    repeats: dict[K, int] = {}
    for (
        key,
        call,
    ) in work.items():  # the first call compiles and packs; the second tells how many fit a sample
        _seconds(call, 1, synchronise)
        repeats[key] = min(64, max(1, ceil(1e-3 / max(_seconds(call, 1, synchronise), 1e-7))))
    waited, started = _seconds_waited(), perf_counter()
    for round_number in range(_MOST_ROUNDS):
        if round_number >= _FEWEST_ROUNDS and perf_counter() - started > budget_seconds:
            break
        for key, call in work.items():
            if not samples[key] or min(samples[key]) * repeats[key] < budget_seconds / 4:
                samples[key].append(_seconds(call, repeats[key], synchronise))
    elapsed = perf_counter() - started
    waiting = (_seconds_waited() - waited) / elapsed
    spread = max(median(found) / min(found) for found in samples.values())
    quiet = waiting <= _MOST_WAITING and spread <= _MOST_SPREAD
    logger.debug("probe: %.2f s, waiting %.3f, spread %.2f", elapsed, waiting, spread)
    return {key: min(found) for key, found in samples.items()}, quiet


def _time_dtypes(device: torch.device, dtypes: set[DType], attempts: int) -> tuple[dict[DType, float], bool]:
    """Each dtype's best time, as geometric mean over the shapes; of a quiet attempt, else of all."""
    shapes = _CPU_SHAPES if device.type == "cpu" else _GPU_SHAPES
    ordered = sorted(dtypes, key=lambda dtype: dtype.value)
    best: dict[tuple[DType, int], float] = {}
    quiet = True
    for index, shape in enumerate(shapes):
        x, weight, bias = _operands(shape)
        work = {dtype: _linear(device, dtype, x, weight, bias) for dtype in ordered}
        for _ in range(attempts):
            seconds, shape_quiet = time_interleaved(work, synchronise=lambda: _synchronise(device))
            for dtype, found in seconds.items():
                best[dtype, index] = found if shape_quiet else min(found, best.get((dtype, index), found))
            if shape_quiet:
                break
        quiet = quiet and shape_quiet
    return {
        dtype: exp(fmean(log(best[dtype, index]) for index in range(len(shapes)))) for dtype in ordered
    }, quiet


def _failure(device: torch.device, dtype: DType) -> str | None:
    """The first of an encoder's operations that does not run, with torch's message; None if all run."""
    kind = dtype.torch
    generator = torch.Generator().manual_seed(0)
    step = "conversion"
    try:
        x = torch.randn(6, 32, generator=generator).to(device, kind)
        weight = torch.randn(96, 32, generator=generator).to(device, kind)
        ids = torch.tensor([0, 5, 3], device=device)
        heads = x.view(1, 6, 2, 16).transpose(1, 2)
        operations: list[tuple[str, Callable[[], Tensor]]] = [
            ("embedding", lambda: functional.embedding(ids, weight)),
            ("add", lambda: x + weight[0]),
            ("layer_norm", lambda: functional.layer_norm(x, (32,), x[0], x[1], 1e-12)),
            ("linear", lambda: functional.linear(x, weight, weight[:, 0])),
            ("gelu", lambda: functional.gelu(x)),
            ("gelu (tanh)", lambda: functional.gelu(x, approximate="tanh")),
            ("relu", lambda: functional.relu(x)),
            ("silu", lambda: functional.silu(x)),
            ("tanh", lambda: torch.tanh(x)),
            ("softmax", lambda: torch.softmax(x, dim=-1)),
            (
                "scaled_dot_product_attention",
                lambda: functional.scaled_dot_product_attention(heads, heads, heads),
            ),
            ("index_select", lambda: x.index_select(0, ids)),
            ("cat", lambda: torch.cat([x, x])),
            ("isfinite", lambda: torch.isfinite(x).to(torch.float32)),
            ("conversion to float32", lambda: x.to(torch.float32)),
        ]
        for step, operation in operations:
            result = operation()
            _synchronise(device)
            if not bool(torch.isfinite(result.to("cpu", torch.float32)).all()):
                return f"{step}: gives values that are not finite"
    except (
        RuntimeError,
        TypeError,
    ) as error:  # torch's two: not implemented, and a dtype that a device does not have
        return f"{step}: {str(error).strip().splitlines()[0]}"
    return None


def _max_error(device: torch.device, dtype: DType) -> float:
    """Largest error of a product, its operands' rounding included, relative to the largest exact value."""
    x, weight, bias = _operands(_CPU_SHAPES[0])
    half = x.shape[1] // 2
    # Summed in two halves: another order than any product's, so that float64 has an error to show as well.
    exact = x[:, :half] @ weight[:, :half].T + x[:, half:] @ weight[:, half:].T + bias
    found = _linear(device, dtype, x, weight, bias)().cpu().double()
    return float((found - exact).abs().max() / exact.abs().max())


def _native(dtype: DType, relative: float, error: float) -> bool | None:
    """Whether the hardware computes in the format, as far as timing and error can tell.

    Faster than float32: nothing emulated is. An error far above one rounding of the result: the sums were
        kept in the
    format itself. Three times slower than float32: converted back and forth, or computed element by element.
    """
    if dtype is DType.FLOAT32:
        return True
    if dtype is DType.FLOAT64:
        return True if relative < 4 else None  # half the numbers a register, twice the bytes
    if relative < 0.75 or error > 4 * dtype.unit_roundoff:
        return True
    return False if relative > 3 else None


def _operands(shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, in), (out, in), (out,) in float64 on the CPU, the same each time."""
    tokens, inner, outer = shape
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(tokens, inner, generator=generator, dtype=torch.float64)
    weight = torch.randn(outer, inner, generator=generator, dtype=torch.float64) * inner**-0.5
    return x, weight, torch.randn(outer, generator=generator, dtype=torch.float64)


def _linear(
    device: torch.device, dtype: DType, x: Tensor, weight: Tensor, bias: Tensor
) -> Callable[[], Tensor]:
    """The product as an engine does it, its operands already in place."""
    # dtype first: a device without float64 takes what was rounded on the CPU
    a, w, b = (tensor.to(dtype.torch).to(device) for tensor in (x, weight, bias))
    return lambda: functional.linear(a, w, b)


def _seconds(call: Callable[[], object], repeats: int, synchronise: Callable[[], object]) -> float:
    """Seconds of one call, averaged over `repeats`."""
    synchronise()
    started = perf_counter()
    for _ in range(repeats):
        call()
    synchronise()
    return (perf_counter() - started) / repeats


def _synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _seconds_waited(tasks: Path = Path("/proc/self/task")) -> float:
    """Seconds that our threads were ready to run while others had the processors; 0 where nothing tells."""
    waited = 0
    for file in tasks.glob("*/schedstat"):
        try:
            waited += int(file.read_text().split()[1])
        except (OSError, ValueError, IndexError):  # a thread that just ended
            continue
    return waited / 1e9
