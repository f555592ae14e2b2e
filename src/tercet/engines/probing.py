"""How torch's number formats are measured: do the encoder's operations run, how fast, how exactly.

Nothing here knows any hardware: a format is judged by what it does. Timings are interleaved, the best of
several; whether something disturbed them is told by how long our threads waited for a processor and how far
samples of the same work lie apart.
"""

from __future__ import annotations

__all__ = ["CRANFIELD", "PRODUCTS", "STATED_DRIFT", "probe_linear", "probe_torch", "time_interleaved"]

import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from functools import partial
from math import ceil
from pathlib import Path
from statistics import geometric_mean, median
from time import perf_counter
from typing import TypeVar

import torch
from torch import Tensor

from tercet.engines.operations import failure_of, synchronise_device
from tercet.layers.linear import Product, onednn_product, torch_product
from tercet.precision.dtype import DType
from tercet.precision.hardware import Measured
from tercet.precision.scheme import Drift, Scheme

logger = logging.getLogger(__name__)
K = TypeVar("K", bound=Hashable)
# (tokens, in), (out, in), (out,) in float64
_Operands = tuple[Tensor, Tensor, Tensor]

# Where stated drifts were measured.
CRANFIELD = "all-MiniLM-L6-v2, Cranfield's 1,400 documents and 225 queries, torch 2.13.0 on a CPU"
# How far dense vectors move from float32 on real texts (benchmarks/scheme_drift.py measures it).
STATED_DRIFT: Mapping[DType, Drift] = {
    DType.FLOAT64: Drift(0.0, 0.0, "wider than float32"),
    DType.FLOAT32: Drift(0.0, 0.0, "the reference itself"),
    DType.BFLOAT16: Drift(4.8e-5, 8.9e-5, CRANFIELD),
    DType.FLOAT16: Drift(7.7e-7, 1.3e-6, CRANFIELD),
}

# Ways to do a linear layer, by the name that a plan carries.
PRODUCTS: Mapping[str, Product] = {"torch": torch_product, "onednn": onednn_product}

# (tokens, in, out): a question and a full batch to a small encoder, a batch to a large one; a GPU is only
# busy with more tokens.
_CPU_SHAPES = ((16, 384, 1536), (2048, 384, 1536), (512, 1024, 1024))
_GPU_SHAPES = ((2048, 384, 1536), (4096, 1024, 4096))
_BUDGET_SECONDS = 0.3  # timing of one shape, all formats together
_DISTURBED_BUDGET_SECONDS = 0.1  # the same, once a measurement can no longer decide anything
_ATTEMPTS = 2  # of a disturbed probe
_MOST_ROUNDS, _FEWEST_ROUNDS = 9, 3
# What takes so many times float32's time is never chosen for speed: one sample tells that.
_FAR_SLOWER = 3.0
# Beyond these the machine was not ours: share of time that threads waited for a processor; median over best.
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
        failures = {dtype: failure_of(place, dtype) for dtype in {scheme.dtype for scheme in wanted}}
        runnable = [dtype for dtype, failure in failures.items() if failure is None]
        seconds, quiet = _time_products(place, {*runnable, DType.FLOAT32}, attempts)
        # Of several products the fastest is the one that an engine will use, so it stands for the dtype.
        kernels = {
            dtype: min((found, name) for (other, name), found in seconds.items() if other is dtype)[1]
            for dtype in {*runnable, DType.FLOAT32}
        }
        errors = {dtype: _max_error(place, dtype, kernels[dtype]) for dtype in runnable}
    measured = {}
    for scheme in wanted:
        dtype = scheme.dtype
        drift, failure = STATED_DRIFT.get(dtype), failures[dtype]
        if failure is not None:
            measured[scheme] = Measured(None, None, None, failure, drift, quiet)
            continue
        kernel = kernels[dtype]
        relative = seconds[dtype, kernel] / seconds[DType.FLOAT32, kernels[DType.FLOAT32]]
        native = _native(dtype, relative, errors[dtype])
        measured[scheme] = Measured(relative, errors[dtype], native, None, drift, quiet, kernel)
    return measured


def probe_linear(
    packs: Mapping[Scheme, Callable[[Tensor], Product]],
    *,
    drifts: Mapping[Scheme, Drift],
    device: str = "cpu",
    kernels: Mapping[Scheme, str] | None = None,
    native: Mapping[Scheme, bool] | None = None,
    attempts: int = _ATTEMPTS,
) -> dict[Scheme, Measured]:
    """What an engine's own linear layers do, against the fastest float32 of torch in the same run.

    Args:
        packs: scheme -> what makes a product of a weight (out, in) float32 on the device.
        drifts: what each scheme states of its drift.
        device: torch's name of it.
        kernels: the engine's name for what is measured here, where it has several.
        native: whether the hardware computes in the format, where the engine knows; else the timing tells.
        attempts: how often a disturbed timing is tried; the last is given back as not quiet.
    """
    place = torch.device(device)

    def packed(scheme: Scheme, operands: _Operands) -> Callable[[], Tensor]:
        x, weight, bias = (tensor.float().to(place) for tensor in operands)
        product = packs[scheme](weight)
        # As they flow between the layers.
        x, bias = (tensor.to(scheme.compute.torch) for tensor in (x, bias))
        return lambda: product(x, weight, bias)

    def work(operands: _Operands) -> dict[Scheme | str, Callable[[], object]]:
        found: dict[Scheme | str, Callable[[], object]] = {
            name: _linear(place, DType.FLOAT32, name, *operands) for name in names
        }
        return found | {scheme: packed(scheme, operands) for scheme in packs}

    measured = {}
    with torch.inference_mode():
        names = _kernels(place, DType.FLOAT32)
        against: list[Scheme | str] = [*names]
        seconds, quiet = _time_shapes(place, work, against, attempts)
        base = min(seconds[name] for name in against)
        for scheme in packs:
            relative = seconds[scheme] / base
            error = _error_of(partial(packed, scheme))
            known = _native(scheme.dtype, relative, error) if native is None else native[scheme]
            kernel = None if kernels is None else kernels[scheme]
            measured[scheme] = Measured(relative, error, known, None, drifts.get(scheme), quiet, kernel)
    return measured


def time_interleaved(
    work: Mapping[K, Callable[[], object]],
    *,
    base: Collection[K] = (),
    budget_seconds: float = _BUDGET_SECONDS,
    synchronise: Callable[[], object] = lambda: None,
) -> tuple[dict[K, float], bool]:
    """Best seconds of one call of each piece of work, and whether the machine was quiet meanwhile.

    Every round calls each once, so that what disturbs one disturbs all. A piece that would eat the budget
    alone is timed once, and so is one far slower than the base: the whole stays near the budget even on a
    slow machine.

    Args:
        work: what to time, by name.
        base: names of what the others are measured against: 3 times the fastest's time is far slower.
        budget_seconds: for all samples of all pieces.
        synchronise: waits until the device has done what it was given.
    """
    samples: dict[K, list[float]] = {key: [] for key in work}
    warm: dict[K, float] = {}
    for key, call in work.items():
        _seconds(call, 1, synchronise)  # compiles and packs; the second call tells how many fit a sample
        warm[key] = _seconds(call, 1, synchronise)
    repeats = {key: min(64, max(1, ceil(1e-3 / max(found, 1e-7)))) for key, found in warm.items()}
    active = set(work)
    waited, started = _seconds_waited(), perf_counter()
    for round_number in range(_MOST_ROUNDS):
        if round_number >= _FEWEST_ROUNDS and perf_counter() - started > budget_seconds:
            break
        for key, call in work.items():
            if key in active:
                samples[key].append(_seconds(call, repeats[key], synchronise))
        if round_number == 0:
            far = min((_FAR_SLOWER * samples[key][0] for key in base), default=float("inf"))
            # Slow in both: what something held up once is not taken for slow.
            active = {
                key
                for key, [sample] in samples.items()
                if sample * repeats[key] < budget_seconds / 4 and min(sample, warm[key]) <= far
            }
    elapsed = perf_counter() - started
    waiting = (_seconds_waited() - waited) / elapsed
    spread = max(median(found) / min(found) for found in samples.values())
    quiet = waiting <= _MOST_WAITING and spread <= _MOST_SPREAD
    logger.debug("probe: %.2f s, waiting %.3f, spread %.2f", elapsed, waiting, spread)
    return {key: min(found) for key, found in samples.items()}, quiet


def _time_products(
    device: torch.device, dtypes: set[DType], attempts: int
) -> tuple[dict[tuple[DType, str], float], bool]:
    """Best time of each product in each dtype, as geometric mean over the shapes."""
    ordered = sorted(dtypes, key=lambda dtype: dtype.value)
    pairs = [(dtype, kernel) for dtype in ordered for kernel in _kernels(device, dtype)]
    base = [pair for pair in pairs if pair[0] is DType.FLOAT32]
    return _time_shapes(
        device, lambda operands: {pair: _linear(device, *pair, *operands) for pair in pairs}, base, attempts
    )


def _time_shapes(
    device: torch.device,
    work_of: Callable[[_Operands], Mapping[K, Callable[[], object]]],
    base: Collection[K],
    attempts: int,
) -> tuple[dict[K, float], bool]:
    """Best time of each piece of work, as geometric mean over the shapes; and whether all was quiet.

    The best of a quiet attempt, else of all. The shapes share the repetitions; and once these are spent and
    one shape is disturbed, the rest is only estimated: a busy machine costs no more than a quiet one.
    """
    shapes = _CPU_SHAPES if device.type == "cpu" else _GPU_SHAPES
    best: dict[K, list[float]] = {}
    quiet, repetitions = True, attempts - 1
    synchronise = partial(synchronise_device, device)
    for shape in shapes:
        work = work_of(_operands(shape))
        budget = _BUDGET_SECONDS if quiet else _DISTURBED_BUDGET_SECONDS
        least, shape_quiet = time_interleaved(work, base=base, budget_seconds=budget, synchronise=synchronise)
        while not shape_quiet and repetitions > 0:
            repetitions -= 1
            seconds, shape_quiet = time_interleaved(
                work, base=base, budget_seconds=budget, synchronise=synchronise
            )
            least = seconds if shape_quiet else {key: min(least[key], seconds[key]) for key in work}
        quiet = quiet and shape_quiet
        for key in work:
            best.setdefault(key, []).append(least[key])
    return {key: geometric_mean(found) for key, found in best.items()}, quiet


def _max_error(device: torch.device, dtype: DType, kernel: str) -> float:
    """Largest error of a product, its operands' rounding included, relative to the largest exact value."""
    return _error_of(lambda operands: _linear(device, dtype, kernel, *operands))


def _error_of(product_of: Callable[[_Operands], Callable[[], Tensor]]) -> float:
    """The same of any product that is made of the operands."""
    x, weight, bias = operands = _operands(_CPU_SHAPES[0])
    half = x.shape[1] // 2
    # Summed in two halves: another order than any product's, so that float64 has an error to show as well.
    exact = x[:, :half] @ weight[:, :half].T + x[:, half:] @ weight[:, half:].T + bias
    found = product_of(operands)().cpu().double()
    return float((found - exact).abs().max() / exact.abs().max())


def _native(dtype: DType, relative: float, error: float) -> bool | None:
    """Whether the hardware computes in the format, as far as timing and error can tell.

    Faster than float32: nothing emulated is. An error far above one rounding of the result: the sums were
    kept in the format itself. Three times slower than float32: converted back and forth, or one by one.
    """
    if dtype is DType.FLOAT32:
        return True
    if dtype is DType.FLOAT64:
        return True if relative < 8 else None  # half the numbers a register, twice the bytes
    if relative < 0.75 or error > 4 * dtype.unit_roundoff:
        return True
    return False if relative > 3 else None


def _operands(shape: tuple[int, int, int]) -> _Operands:
    """(tokens, in), (out, in), (out,) in float64 on the CPU, the same each time."""
    tokens, inner, outer = shape
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(tokens, inner, generator=generator, dtype=torch.float64)
    weight = torch.randn(outer, inner, generator=generator, dtype=torch.float64) * inner**-0.5
    return x, weight, torch.randn(outer, generator=generator, dtype=torch.float64)


def _linear(
    device: torch.device, dtype: DType, kernel: str, x: Tensor, weight: Tensor, bias: Tensor
) -> Callable[[], Tensor]:
    """The product as an engine does it, its operands already in place."""
    # dtype first: a device without float64 takes what was rounded on the CPU
    a, w, b = (tensor.to(dtype.torch).to(device) for tensor in (x, weight, bias))
    product = PRODUCTS[kernel]
    return lambda: product(a, w, b)


def _kernels(device: torch.device, dtype: DType) -> list[str]:
    """The products that a device can do in a dtype."""
    if device.type != "cpu":
        return ["torch"]
    found = []
    x, weight, bias = _operands((8, 32, 16))
    for name in PRODUCTS:
        try:
            _linear(device, dtype, name, x, weight, bias)()
        except (RuntimeError, AttributeError) as error:  # not in this format, or not in this release of torch
            logger.debug("product %s does not do %s: %s", name, dtype, error)
        else:
            found.append(name)
    return found


def _seconds(call: Callable[[], object], repeats: int, synchronise: Callable[[], object]) -> float:
    """Seconds of one call, averaged over `repeats`."""
    synchronise()
    started = perf_counter()
    for _ in range(repeats):
        call()
    synchronise()
    return (perf_counter() - started) / repeats


def _seconds_waited(tasks: Path = Path("/proc/self/task")) -> float:
    """Seconds that our threads were ready to run while others had the processors; 0 where nothing tells."""
    waited = 0
    for file in tasks.glob("*/schedstat"):
        try:
            waited += int(file.read_text().split()[1])
        except (OSError, ValueError, IndexError):  # a thread that just ended
            continue
    return waited / 1e9
