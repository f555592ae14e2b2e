import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import small_runs
import tiny
from small_runs import lines, write_base
from tercet.training import precision, processes
from tercet.training.precision import Measurement, choose, measure
from tercet.training.states import newest_state, read_state
from tercet.training.trainer import train

CPU = torch.device("cpu")


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_base(4)


def recipe(base: Path, **changes: Any) -> dict[str, Any]:
    """Without a precision of its own, and the same at every step."""
    asked = {"batch": {"texts": 4}, "dropout": 0.0, "precision": "auto", **changes}
    return small_runs.recipe(base, **asked)


@pytest.mark.parametrize(
    ("found", "name", "said"),
    [
        (
            Measurement(0.4, 0.004, True),
            "bfloat16",
            "bfloat16: a step of bfloat16 took 0.40",
        ),
        (
            Measurement(0.95, 0.004, True),
            "float32",
            "took 0.95 of float32's time on the CPU",
        ),
        (Measurement(0.4, 0.004, False), "float32", "other processes disturbed the timing"),
        (Measurement(0.4, 0.3, True), "float32", "gradients in bfloat16 were 0.3 off"),
        (Measurement(0.4, float("nan"), True), "float32", "gradients in bfloat16 were nan off"),
        (Measurement(0.4, 0.0, True, "no kernel"), "float32", "does not run on the CPU (no kernel)"),
    ],
)
def test_auto_is_bfloat16_where_it_was_measured_to_be_faster_and_right(
    found: Measurement, name: str, said: str
) -> None:
    taken, why = choose("auto", CPU, measured=lambda device: found)
    assert taken == name
    assert said in why
    assert choose("float16", CPU, measured=lambda device: found) == ("float16", "float16, as the recipe says")


def test_what_is_measured_are_gradients_and_times_of_this_machine() -> None:
    drawn = torch.get_rng_state()
    found = measure(CPU)
    assert found.failure is None
    assert found.relative_seconds > 0
    assert 1e-4 < found.error < 0.02  # rounded to 8 bits, and rightly
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_run_says_what_auto_came_to_and_goes_on_in_it(
    base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    whole = train(recipe(base, precision="bfloat16", output={"folder": "whole"}), device="cpu")

    def stop(step: int, steps: int, scalars: Any) -> None:
        if step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(precision, "measure", lambda device: Measurement(0.3, 0.004, True))
    with pytest.raises(KeyboardInterrupt):
        train(recipe(base), device="cpu", progress=stop)
    assert "Precision: bfloat16: a step of bfloat16 took 0.30 of float32's time" in caplog.text
    monkeypatch.setattr(precision, "measure", lambda device: Measurement(2.0, 0.004, True))
    done = train(recipe(base), device="cpu", resume=True)
    assert "Precision: bfloat16, which was measured when the run began" in caplog.text
    assert done.precision == "bfloat16, which was measured when the run began"
    assert done.loss == pytest.approx(whole.loss, rel=1e-6)


def test_float16_leaves_out_and_counts_steps_that_overflow_and_its_factor_falls_and_grows(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_GROWTH_STEPS", 3)
    # So heavy a loss overflows in float16 until the factor is small enough.
    loss = [{"name": "info_nce", "head": "dense", "weight": 300.0, "options": {"temperature": 0.1}}]
    train(recipe(base, precision="float16", losses=loss, steps=24), device="cpu")
    found = lines()
    first = next(number for number, line in enumerate(found) if line["gradient_norm"] is not None)
    assert first > 0
    assert [line["skipped"] for line in found[: first + 1]] == [*range(1, first + 1), first]
    # A step that is left out changes nothing: the next one sees the same loss.
    for line in found[: first + 1]:
        assert line["loss"] == pytest.approx(found[0]["loss"], rel=1e-5)  # of the same texts in another order
    scales = [65536.0, *(line["loss_scale"] for line in found)]
    for (before, after), line in zip(pairwise(scales), found, strict=True):
        assert after == (before / 2 if line["gradient_norm"] is None else after)
        assert after in (before / 2, before, before * 2)
    assert any(after > before for before, after in pairwise(scales))
    assert found[-1]["loss"] < found[0]["loss"]
    state = read_state(newest_state(Path("out.run")))  # type: ignore[arg-type]
    assert state["scaler"]["scale"] == scales[-1]


def test_float16_learns_what_float32_learns_and_goes_on_with_its_factor(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ends = {
        name: train(recipe(base, precision=name, normalize=True, output={"folder": name}), device="cpu").loss
        for name in ("float32", "float16")
    }
    assert ends["float16"] == pytest.approx(ends["float32"], rel=0.01)
    assert ends["float16"] != ends["float32"]
    assert "float16 on a CPU: most emulate it" in caplog.text

    def stop(step: int, steps: int, scalars: Any) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe(base, precision="float16", normalize=True), device="cpu", progress=stop)
    done = train(recipe(base, precision="float16", normalize=True), device="cpu", resume=True)
    assert done.loss == pytest.approx(ends["float16"], rel=1e-6)
    assert [line["loss_scale"] for line in lines()] == [line["loss_scale"] for line in lines("float16")]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_half_precision_checkpoint_is_trained_in_float32_and_the_log_says_so(
    base: Path, tmp_path: Path, dtype: str, caplog: pytest.LogCaptureFixture
) -> None:
    half = tiny.write_checkpoint(tmp_path / "half", "bert", layers=1, dtype=dtype)
    train(recipe(half, precision="bfloat16", steps=1), device="cpu")
    assert f"stored in {dtype}. It is trained in float32" in caplog.text
    state = read_state(newest_state(Path("out.run")))  # type: ignore[arg-type]
    kept = [values for values in state["model"].values() if values.is_floating_point()]
    assert {values.dtype for values in kept} == {torch.float32}
