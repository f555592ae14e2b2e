"""What the probe finds, on this machine and with made-up timings."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from tercet.engines import probing
from tercet.engines.probing import PRODUCTS, STATED_DRIFT, probe_torch, time_interleaved
from tercet.precision.dtype import DType
from tercet.precision.scheme import Scheme

F64, F32, BF16, F16, INT8 = DType.FLOAT64, DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16, DType.INT8


def schemes(*dtypes: DType) -> list[Scheme]:
    return [Scheme(dtype, F32, None, "torch_packed") for dtype in dtypes]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products small enough for a test."""
    monkeypatch.setattr(probing, "_CPU_SHAPES", ((32, 64, 96),))
    monkeypatch.setattr(probing, "_BUDGET_SECONDS", 0.02)


@pytest.mark.usefixtures("small")
def test_every_dtype_of_a_cpu_is_measured_against_float64() -> None:
    state = torch.get_rng_state()
    found = dict(
        zip([F64, F32, BF16, F16], probe_torch("cpu", schemes(F64, F32, BF16, F16)).values(), strict=True)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert found[F32].relative_seconds == 1.0
    assert found[F32].native is True
    for dtype, measured in found.items():
        assert measured.failure is None
        assert measured.relative_seconds is not None
        assert measured.relative_seconds > 0
        assert measured.kernel in PRODUCTS
        assert measured.drift == STATED_DRIFT[dtype]
    errors = [found[dtype].max_error or 0.0 for dtype in (F64, F32, F16, BF16)]
    assert errors == sorted(errors)
    # an error of a few roundings of the largest value, no more
    for dtype in (F64, F32, F16, BF16):
        assert 0 < (found[dtype].max_error or 0.0) < 64 * dtype.unit_roundoff


@pytest.mark.usefixtures("small")
def test_a_dtype_without_the_operations_gives_torchs_own_message() -> None:
    [measured] = probe_torch("cpu", schemes(INT8)).values()
    assert not measured.runs
    assert measured.relative_seconds is None
    assert measured.failure is not None
    assert "not implemented for 'Char'" in measured.failure


@pytest.mark.usefixtures("small")
def test_an_operation_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> torch.Tensor:
        raise RuntimeError("\"gelu\" not implemented for 'Half'\nsecond line")

    monkeypatch.setattr(torch.nn.functional, "gelu", broken)
    [measured] = probe_torch("cpu", schemes(F16)).values()
    assert measured.failure == "gelu: \"gelu\" not implemented for 'Half'"


@pytest.mark.usefixtures("small")
def test_an_operation_that_gives_nonsense_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "tanh", lambda x: x / 0)
    [measured] = probe_torch("cpu", schemes(F16)).values()
    assert measured.failure == "tanh: gives values that are not finite"


@pytest.mark.usefixtures("small")
def test_the_fastest_product_stands_for_a_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(work: dict[tuple[DType, str], object], **options: object) -> tuple[dict[object, float], bool]:
        return {pair: {"torch": 4.0, "onednn": 2.0}[pair[1]] / pair[0].bytes for pair in work}, True

    monkeypatch.setattr(probing, "time_interleaved", timed)
    monkeypatch.setattr(
        probing, "_kernels", lambda device, dtype: ["torch"] if dtype is F16 else list(PRODUCTS)
    )
    found = probe_torch("cpu", schemes(F32, BF16, F16))
    assert [row.kernel for row in found.values()] == ["onednn", "onednn", "torch"]
    # float32's own best is what the others are measured against
    assert [row.relative_seconds for row in found.values()] == [1.0, 2.0, 4.0]


@pytest.mark.usefixtures("small")
def test_a_disturbed_timing_is_repeated_within_bounds_and_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def disturbed(work: dict[object, object], **options: object) -> tuple[dict[object, float], bool]:
        calls.append(len(work))
        return dict.fromkeys(work, 1.0), False

    monkeypatch.setattr(probing, "time_interleaved", disturbed)
    monkeypatch.setattr(probing, "_CPU_SHAPES", ((32, 64, 96), (16, 64, 96)))
    [measured] = probe_torch("cpu", schemes(F32)).values()
    assert not measured.quiet
    assert len(calls) == 3  # two shapes, one repetition that they share


@pytest.mark.usefixtures("small")
def test_a_quiet_repetition_replaces_what_was_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    timings: Iterator[tuple[float, bool]] = iter([(1.0, False), (2.0, True)])

    def second_is_quiet(work: dict[object, object], **options: object) -> tuple[dict[object, float], bool]:
        seconds, quiet = next(timings)
        return dict.fromkeys(work, seconds), quiet

    monkeypatch.setattr(probing, "time_interleaved", second_is_quiet)
    [measured] = probe_torch("cpu", schemes(F32)).values()
    assert measured.quiet


def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only the work moves."""
    now = [0.0]
    monkeypatch.setattr(probing, "perf_counter", lambda: now[0])
    monkeypatch.setattr(probing, "_seconds_waited", lambda: 0.0)
    return now


def test_timings_are_the_best_of_interleaved_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = clock(monkeypatch), []

    def work(name: str, seconds: float) -> None:
        order.append(name)
        now[0] += seconds

    found, quiet = time_interleaved(
        {"a": lambda: work("a", 0.010), "b": lambda: work("b", 0.020)}, budget_seconds=0.2
    )
    assert found == {"a": pytest.approx(0.010), "b": pytest.approx(0.020)}
    assert quiet
    assert order[4:10] == ["a", "b"] * 3  # behind two warm-up calls of each


def test_a_piece_that_would_eat_the_budget_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = clock(monkeypatch), []

    def slow() -> None:
        calls.append(1)
        now[0] += 5.0

    def fast() -> None:
        now[0] += 0.002

    found, quiet = time_interleaved({"slow": slow, "fast": fast}, budget_seconds=0.2)
    assert found == {"slow": pytest.approx(5.0), "fast": pytest.approx(0.002)}
    assert quiet
    assert len(calls) == 3  # two to warm up, one that counts


def test_what_is_far_slower_than_the_base_is_timed_once_and_the_base_in_every_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = clock(monkeypatch)
    calls = dict.fromkeys(["base", "emulated", "slower", "faster"], 0)

    def work(name: str, seconds: float) -> None:
        calls[name] += 1
        now[0] += seconds

    pieces = {"base": 0.002, "emulated": 0.007, "slower": 0.005, "faster": 0.001}
    found, quiet = time_interleaved(
        {name: partial(work, name, seconds) for name, seconds in pieces.items()}, base=["base"]
    )
    assert found == pytest.approx(pieces)
    assert quiet
    assert calls == {"base": 11, "emulated": 3, "slower": 11, "faster": 11}


def test_what_was_held_up_once_is_not_taken_for_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = clock(monkeypatch), [0]

    def base() -> None:
        now[0] += 0.002

    def held_up() -> None:
        calls[0] += 1
        now[0] += 0.100 if calls[0] == 3 else 0.001  # the first sample

    found, _ = time_interleaved({"base": base, "held up": held_up}, base=["base"], budget_seconds=1.0)
    assert found["held up"] == pytest.approx(0.001)


def test_once_disturbed_in_vain_the_other_shapes_are_only_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    budgets = []

    def disturbed(
        work: dict[object, object], *, budget_seconds: float, **options: object
    ) -> tuple[dict[object, float], bool]:
        budgets.append(budget_seconds)
        return dict.fromkeys(work, 1.0), False

    monkeypatch.setattr(probing, "time_interleaved", disturbed)
    monkeypatch.setattr(probing, "_CPU_SHAPES", ((32, 64, 96), (16, 64, 96)))
    probe_torch("cpu", schemes(F32))
    assert budgets[0] == budgets[1] > budgets[2] > 0


def test_samples_that_lie_far_apart_are_not_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock(monkeypatch)
    durations = iter([0.01] * 2 + [0.01, 0.02, 0.03] * 10)

    def work() -> None:
        now[0] += next(durations)

    found, quiet = time_interleaved({"work": work}, budget_seconds=0.05)
    assert found["work"] == pytest.approx(0.01)
    assert not quiet


def test_waiting_for_a_processor_is_not_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock(monkeypatch)
    monkeypatch.setattr(probing, "_seconds_waited", lambda: 0.2 * now[0])

    def work() -> None:
        now[0] += 0.01

    assert not time_interleaved({"work": work}, budget_seconds=0.05)[1]


def test_the_time_that_threads_waited_is_summed_over_the_process(tmp_path: Path) -> None:
    for name, text in {"1": "5 1000000000 3", "2": "7 500000000 1", "3": "", "4": "a b c"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "schedstat").write_text(text)
    (tmp_path / "5").mkdir()
    assert probing._seconds_waited(tmp_path) == 1.5
    assert probing._seconds_waited(tmp_path / "nothing") == 0


@pytest.mark.parametrize(
    ("dtype", "relative", "error", "native"),
    [
        (F32, 1.0, 1e-7, True),
        (F64, 2.0, 1e-15, True),
        (F64, 20.0, 1e-15, None),
        (BF16, 0.25, 4e-3, True),  # faster than float32: nothing emulated is
        (BF16, 1.6, 4e-3, None),  # slow instructions or a quick emulation: the timing cannot tell
        (F16, 10.0, 5e-4, False),
        (F16, 1.0, 5e-3, True),  # ten roundings: the sums were kept in float16
    ],
)
def test_native_or_emulated_is_told_by_timing_and_error(
    dtype: DType, relative: float, error: float, native: bool | None
) -> None:
    assert probing._native(dtype, relative, error) is native


def test_float16_states_no_visible_drift_and_bfloat16_does() -> None:
    assert STATED_DRIFT[F16].invisible
    assert STATED_DRIFT[F32].invisible
    assert not STATED_DRIFT[BF16].invisible
    assert all(drift.source for drift in STATED_DRIFT.values())
