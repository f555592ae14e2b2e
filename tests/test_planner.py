"""Probes remembered and forgotten, and plans of real folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tercet
from planned import DRIFTED, UNSEEN, measured, scheme
from tercet import planner
from tercet.checkpoint.layout import open_checkpoint
from tercet.engines import ENGINES
from tercet.errors import CheckpointError, InputError, PrecisionError, UnknownNameError
from tercet.planner import probing
from tercet.precision.dtype import DType, Precision, Wish
from tercet.precision.hardware import Measured
from tercet.precision.plan import Plan
from tercet.precision.scheme import Scheme

F32, F16, BF16 = DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16
NAMES = {"float32": F32, "float16": F16, "bfloat16": BF16}


class Engine:
    """An engine that measures what it was told."""

    def __init__(self, rows: dict[DType, Measured]) -> None:
        self.rows = rows
        self.probes = 0

    def schemes(self, device: str) -> Sequence[Scheme]:
        return [scheme(dtype) for dtype in self.rows]

    def lacks(self, architecture: str) -> str | None:
        return None

    def probe(self, device: str, schemes: Sequence[Scheme]) -> dict[Scheme, Measured]:
        self.probes += 1
        return {found: self.rows[found.dtype] for found in schemes}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engine:
    """An engine of its own in place of all, and an empty cache."""
    made = Engine({F32: measured(1.0), BF16: measured(0.4, DRIFTED), F16: measured(3.0, UNSEEN)})
    ENGINES.names()
    monkeypatch.setattr(ENGINES, "_entries", {"torch_packed": made})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def test_a_probe_is_made_once_and_remembered(engine: Engine) -> None:
    first = planner.capability("cpu")
    assert planner.remembered_in("cpu").is_file()
    second = planner.capability("cpu")
    assert engine.probes == 1
    assert second.schemes == first.schemes == {scheme(dtype): row for dtype, row in engine.rows.items()}
    assert list(second.schemes) == list(first.schemes)
    assert first.quiet
    assert 0 < first.free_bytes <= first.total_bytes
    assert first.threads == torch.get_num_threads()


def test_refresh_probes_again_and_remembers_the_new_table(engine: Engine) -> None:
    planner.capability("cpu")
    engine.rows[BF16] = measured(0.2, DRIFTED)
    assert planner.capability("cpu").schemes[scheme(BF16)].relative_seconds == 0.4
    assert planner.capability("cpu", refresh=True).schemes[scheme(BF16)].relative_seconds == 0.2
    assert planner.capability("cpu").schemes[scheme(BF16)].relative_seconds == 0.2
    assert engine.probes == 2


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        (torch, "__version__", "9.9.9"),
        (torch, "get_num_threads", lambda: 77),
        (torch, "get_float32_matmul_precision", lambda: "medium"),
        (probing, "device_features", lambda device: ("avx9000",)),
        (probing, "device_name", lambda device: "another CPU"),
        (probing, "kernels_here", lambda: "another level"),
        (probing, "_PROBE_VERSION", 999),
    ],
)
def test_another_machine_library_or_thread_count_is_probed_anew(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, place: object, name: str, value: object
) -> None:
    planner.capability("cpu")
    with monkeypatch.context() as patch:
        patch.setattr(place, name, value)
        planner.capability("cpu")
        assert engine.probes == 2
    planner.capability("cpu")
    assert engine.probes == 2


def test_an_engine_with_a_new_scheme_is_probed_anew(engine: Engine) -> None:
    planner.capability("cpu")
    engine.rows[DType.INT8] = measured(0.3, None)
    assert scheme(DType.INT8) in planner.capability("cpu").schemes


def at(monkeypatch: pytest.MonkeyPatch, start: float) -> list[float]:
    """The time of day, which a test moves."""
    now = [start]
    monkeypatch.setattr(probing, "time", lambda: now[0])
    return now


def test_a_disturbed_probe_stands_for_an_hour_and_then_is_made_anew(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tiny_bert: Path
) -> None:
    now = at(monkeypatch, 1_000_000.0)
    engine.rows[F16] = measured(0.3, UNSEEN, quiet=False)
    first = planner.capability("cpu")
    assert not first.quiet
    now[0] += 3599
    again = planner.capability("cpu")
    assert engine.probes == 1
    assert (again.schemes, again.quiet) == (first.schemes, False)
    # however fast it looked
    assert tercet.plan(tiny_bert).scheme == scheme(F32)
    now[0] += 2
    engine.rows[F16] = measured(0.3, UNSEEN)
    assert planner.capability("cpu").quiet
    assert engine.probes == 2
    # what a quiet machine measured has no end
    now[0] += 10 * 365 * 24 * 3600
    assert tercet.plan(tiny_bert).scheme == scheme(F16)
    assert engine.probes == 2


def test_refresh_measures_a_disturbed_table_anew_at_once(engine: Engine) -> None:
    engine.rows[F16] = measured(0.3, UNSEEN, quiet=False)
    assert not planner.capability("cpu").quiet
    engine.rows[F16] = measured(0.3, UNSEEN)
    assert planner.capability("cpu", refresh=True).quiet
    assert planner.capability("cpu").quiet
    assert engine.probes == 2


def test_a_disturbed_table_of_a_time_to_come_is_forgotten(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = at(monkeypatch, 2_000_000.0)
    engine.rows[F16] = measured(0.3, UNSEEN, quiet=False)
    planner.capability("cpu")
    now[0] -= 500_000  # the clock was set right
    planner.capability("cpu")
    assert engine.probes == 2


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "null",
        '{"key": {}, "schemes": []}',
        '{"key": KEY}',
        '{"key": KEY, "schemes": [{"scheme": {}}]}',
        '{"key": KEY, "schemes": []}',
        '{"key": KEY, "schemes": [], "time": "yesterday"}',
    ],
)
def test_a_damaged_note_is_forgotten(engine: Engine, text: str) -> None:
    planner.capability("cpu")
    path = planner.remembered_in("cpu")
    key = json.loads(path.read_text())["key"]
    path.write_text(text.replace("KEY", json.dumps(key)))
    assert len(planner.capability("cpu").schemes) == 3
    assert engine.probes == 2


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert planner.capability("cpu").quiet
    assert planner.capability("cpu").quiet
    assert engine.probes == 2


def test_a_device_that_is_not_there_is_refused_before_any_probe(engine: Engine) -> None:
    with pytest.raises(PrecisionError, match="no such device here"):
        planner.capability("cuda:17")
    assert engine.probes == 0


def test_the_public_names_give_the_same(engine: Engine, tiny_bert: Path) -> None:
    assert tercet.probe("cpu").schemes == planner.capability("cpu").schemes
    made = tercet.plan(tiny_bert, device="cpu")
    assert made.scheme == scheme(F32)
    assert made.model == str(tiny_bert)


@pytest.mark.parametrize(
    "spelling", ["bf16", torch.bfloat16, BF16, Wish("explicit", BF16), Precision.parse("bf16")]
)
def test_a_precision_may_be_anything_that_means_one(
    engine: Engine, tiny_bert: Path, spelling: object
) -> None:
    assert planner.make_plan(open_checkpoint(tiny_bert), precision=spelling).scheme == scheme(BF16)


def test_a_tolerance_widens_what_auto_may_take(engine: Engine, tiny_bert: Path) -> None:
    assert tercet.plan(tiny_bert, tolerance=1e-4).scheme == scheme(BF16)
    assert tercet.plan(tiny_bert, tolerance=4.6e-5).scheme == scheme(F32)
    with pytest.raises(PrecisionError, match=r"bfloat16 drifts further than tolerance=1e-06 allows"):
        tercet.plan(tiny_bert, precision="bf16", tolerance=1e-6)
    with pytest.raises(InputError, match="tolerance and plan were both given"):
        tercet.load(tiny_bert, plan=tercet.plan(tiny_bert), tolerance=1e-4)


def test_a_plan_reads_no_weight(engine: Engine, tmp_path: Path) -> None:
    import tiny

    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    weights = folder / "model.safetensors"
    size = weights.stat().st_size
    header = int.from_bytes(weights.read_bytes()[:8], "little")
    with weights.open("r+b") as file:
        file.truncate(8 + header)
        file.truncate(size)  # a hole of zeros where the weights were
    assert planner.make_plan(open_checkpoint(folder)).scheme == scheme(F32)


def test_the_options_reach_the_plan(engine: Engine, tiny_m3: Path) -> None:
    made = tercet.plan(
        tiny_m3, precision="fp16", token_budget=99, output_dtype="half", outputs=("sparse",), max_length=10
    )
    assert made.scheme == scheme(F16)
    assert made.token_budget == 99
    assert made.precision.output is F16
    assert ("one batch of 99 tokens") in dict(made.memory)


def test_a_float16_checkpoint_is_planned_as_stored_only_when_asked(engine: Engine, tmp_path: Path) -> None:
    import tiny

    checkpoint = open_checkpoint(tiny.write_checkpoint(tmp_path / "half", "bert", dtype="float16"))
    assert planner.make_plan(checkpoint).scheme == scheme(F32)
    assert planner.make_plan(checkpoint, precision="checkpoint").scheme == scheme(F16)
    engine.rows[F16] = measured(None, UNSEEN, failure="linear: \"addmm\" not implemented for 'Half'")
    planner.capability("cpu", refresh=True)
    with pytest.raises(
        PrecisionError, match=r"stored in float16\. .*\"addmm\" not implemented for 'Half'.* Ask for"
    ):
        planner.make_plan(checkpoint, precision="checkpoint")


def test_a_missing_head_is_an_error_before_anything_is_planned(engine: Engine, tiny_bert: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no sparse output, since there is no sparse_linear\.pt .* It makes: dense"
    ):
        tercet.plan(tiny_bert, outputs=("dense", "sparse"))
    with pytest.raises(InputError, match=r"no output 'spare'\. Did you mean 'sparse'\?"):
        tercet.plan(tiny_bert, outputs=("spare",))


def test_a_plan_is_given_back_as_it_is(engine: Engine, tiny_bert: Path) -> None:
    made = tercet.plan(tiny_bert, precision="bf16")
    assert planner.make_plan(open_checkpoint(tiny_bert), precision=made) is made


def test_a_plan_of_an_engine_that_is_not_here_is_refused(engine: Engine, tiny_bert: Path) -> None:
    made: Plan = tercet.plan(tiny_bert)
    alien = replace(made, scheme=replace(made.scheme, engine="native_cpu"))
    with pytest.raises(UnknownNameError, match=r"engine 'native_cpu', which is not here.*Make the plan anew"):
        planner.make_plan(open_checkpoint(tiny_bert), precision=alien)
    other = replace(made, scheme=replace(made.scheme, variant="tf32"))
    with pytest.raises(
        PrecisionError, match=r"runs tf32 \(torch_packed\) on cpu, which that engine does not"
    ):
        planner.make_plan(open_checkpoint(tiny_bert), precision=other)
    int8 = replace(made, scheme=scheme(DType.INT8))
    with pytest.raises(
        PrecisionError, match=r"int8 \(torch_packed\) on cpu, which that engine does not do here"
    ):
        planner.make_plan(open_checkpoint(tiny_bert), precision=int8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": BF16}, "weights in bfloat16; with a body in float32"),
        ({"compute": F16}, "compute in float16"),
        ({"heads": F16}, "heads in float16"),
        ({"output": DType.INT8}, "output in int8; vectors come out in float32"),
    ],
)
def test_a_plan_whose_formats_contradict_its_scheme_is_refused(
    engine: Engine, tiny_bert: Path, change: dict[str, DType], message: str
) -> None:
    made = planner.plan(tiny_bert, precision="float32", device="cpu")
    edited = replace(made, precision=replace(made.precision, **change))
    with pytest.raises(PrecisionError, match=message):
        planner.make_plan(open_checkpoint(tiny_bert), precision=edited)


def test_the_real_engines_can_be_planned_on_this_machine(minilm: Path) -> None:
    made = tercet.plan("minilm", precision="float32", device="cpu")
    assert made.scheme.dtype is F32
    assert made.model == "minilm"
    assert made.peak_bytes > 90_000_000
