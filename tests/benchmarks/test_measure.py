import sys
import time

import pytest

import machine
import measure
import models
import processes
import run
from engines import ENGINES, Engine
from measure import Bench, StoppedError, why_absent
from processes import TimeUpError, WorkerError, WorkerProcess
from samples import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results.json", {"code": "before"})


@pytest.fixture
def others(monkeypatch):
    """What other processes use, as a list whose first item says; nothing sleeps."""
    used = [0.0]

    class Watch:
        def others(self):
            return used[0]

    monkeypatch.setattr(measure, "Watch", Watch)
    monkeypatch.setattr(measure.time, "sleep", lambda seconds: None)
    return used


def test_a_row_of_a_changed_source_is_refused_and_what_was_there_is_kept(store):
    code = ["before"]
    bench = Bench(store, code=lambda: code[0])
    bench.keep(kind="speed", seconds=1.0)
    code[0] = "after"
    with pytest.raises(StoppedError, match="source changed while it was measured"):
        bench.keep(kind="speed", seconds=2.0)
    assert Store(store.path, store.identity).rows == [{"kind": "speed", "seconds": 1.0}]


def test_the_code_changes_with_a_source_a_compiled_kernel_and_a_text_but_not_with_a_page(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    found = [machine.code()]
    for name in (
        "src/tercet/a.py",
        "src/tercet/kernels/a.so",
        "benchmarks/workloads.py",
        "benchmarks/peak.c",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
        found.append(machine.code())
    assert len(set(found)) == 5
    (tmp_path / "benchmarks" / "report.py").write_bytes(b"1")
    cached = tmp_path / "src" / "tercet" / "__pycache__" / "a.pyc"
    cached.parent.mkdir()
    cached.write_bytes(b"1")
    assert machine.code() == found[-1]


def test_every_program_that_decides_a_sample_is_there():
    for name in machine.HOW:
        assert list((machine.ROOT / "benchmarks").glob(f"{name}.*")), name


def test_each_state_of_the_source_has_a_file_of_its_own_and_goes_on_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "BENCH", tmp_path)
    monkeypatch.setattr(machine, "machine", lambda: {"cpu": "Imaginary 9000"})
    monkeypatch.setattr(machine, "versions", dict)
    monkeypatch.setattr(machine, "code", lambda: "before")
    run.opened("full", fresh=False).add(kind="speed", seconds=1.0)
    monkeypatch.setattr(machine, "code", lambda: "after")
    assert run.opened("full", fresh=False).rows == []
    monkeypatch.setattr(machine, "code", lambda: "before")
    assert run.opened("full", fresh=False).rows == [{"kind": "speed", "seconds": 1.0}]
    again = run.opened("full", fresh=True)
    assert again.rows == []
    assert again.set_aside is not None
    assert again.set_aside.exists()
    assert run.newest("full").path.parent == tmp_path


def test_a_page_without_samples_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "BENCH", tmp_path)
    with pytest.raises(SystemExit, match="Run it without --page"):
        run.newest("full")


def test_nothing_is_begun_that_would_not_end_in_time(store):
    assert Bench(store).fits(1e9)
    bench = Bench(store, seconds=100.0, started=time.monotonic() - 60)
    assert bench.fits(30.0)
    assert not bench.cut
    assert not bench.fits(50.0)
    assert bench.cut
    assert not bench.over
    assert Bench(store, seconds=100.0, started=time.monotonic() - 101).over


def test_a_sample_is_clean_below_a_twentieth_of_the_cpu(store, others, monkeypatch):
    monkeypatch.setattr(measure, "wait_for_quiet", lambda seconds: True)
    bench = Bench(store)
    assert bench.sample(lambda: {"seconds": 1.0}, kind="speed")["clean"]
    others[0] = 0.06
    assert not bench.sample(lambda: {"seconds": 1.0}, kind="speed")["clean"]


def test_a_busy_machine_ends_measuring_when_the_waiting_is_used_up(store, others, monkeypatch):
    others[0] = 0.4
    clock = [0.0]
    waits = []

    def wait(seconds):
        waits.append(seconds)
        clock[0] += seconds
        return False

    monkeypatch.setattr(measure, "wait_for_quiet", wait)
    monkeypatch.setattr(measure.time, "monotonic", lambda: clock[0])
    bench = Bench(store, patience=2, waiting=50.0, started=0.0)
    for _ in range(2):
        bench.sample(lambda: {"seconds": 1.0}, kind="speed")
    with pytest.raises(StoppedError, match=r"CPU busy \(40% .*3 of 3 samples were disturbed.*run again"):
        bench.sample(lambda: {"seconds": 1.0}, kind="speed")
    assert waits == [20.0, 20.0, 10.0]
    assert len(store.rows) == 3


def test_a_trial_waits_for_nobody(store, others, monkeypatch):
    others[0] = 0.9
    monkeypatch.setattr(measure, "wait_for_quiet", lambda seconds: pytest.fail("it waited"))
    Bench(store, patience=0, waiting=0.0).sample(lambda: {"seconds": 1.0}, kind="speed")


def test_a_precision_that_does_not_run_is_noted_once_and_a_fault_is_another_thing(store):
    bench = Bench(store)
    for _ in range(2):
        bench.failed(
            WorkerError("tercet-int8", "no engine here", "PrecisionError"),
            kind="load",
            shape="minilm",
            engine="tercet-int8",
        )
        bench.failed(WorkerError("st", "it ended"), kind="speed", shape="minilm", workload="A", engine="st")
    assert store.rows == [
        {"kind": "absent", "shape": "minilm", "engine": "tercet-int8", "reason": "no engine here"},
        {
            "kind": "failure",
            "of": "speed",
            "shape": "minilm",
            "workload": "A",
            "engine": "st",
            "error": "it ended",
        },
    ]


@pytest.mark.parametrize(
    ("name", "slower", "measured"),
    [
        ("tercet-float16", 9.0, False),
        ("tercet-float16", 0.5, True),
        ("tercet-float16", None, True),
        ("tercet-auto", 9.0, True),
        ("tercet", 1.0, True),
        ("st", 9.0, True),
    ],
)
def test_what_is_only_emulated_is_not_measured_and_says_why(name, slower, measured):
    reason = why_absent(ENGINES[name], {"slower": slower, "scheme": "float16 (torch_packed)"})
    assert (reason is None) == measured
    if reason is not None:
        assert "float16 (torch_packed) would take 9.0 times as long" in reason


def test_a_folder_is_made_anew_when_what_makes_it_has_changed(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("old", encoding="utf-8")
    models.stamp_of(folder).write_text("before", encoding="utf-8")
    assert models.up_to_date(folder, "before")
    assert not models.up_to_date(folder, "after")
    assert not folder.exists()
    folder.mkdir()
    assert not models.up_to_date(folder, "before"), "without a stamp nobody knows what made it"


WORKER = """
import json, sys, time
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "hang":
        time.sleep(60)
    if request["do"] == "fail":
        answer = {"error": "does not run", "kind": request["kind"]}
    else:
        answer = {"heard": request}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    (tmp_path / "fake_worker.py").write_text(WORKER, encoding="utf-8")
    monkeypatch.setattr(processes, "WORKERS", tmp_path)
    monkeypatch.setattr(processes, "python_of", lambda engine: sys.executable)
    return Engine("fake", "Fake", "fake", None)


def test_a_worker_that_does_not_answer_in_time_is_ended(worker, tmp_path):
    log = tmp_path / "log"
    with (
        WorkerProcess(worker, log, tmp_path, until=time.monotonic() + 0.5) as process,
        pytest.raises(TimeUpError, match="fake: was ended in the middle of its work"),
    ):
        process.ask(do="hang")
    assert process.process.poll() is not None


def test_a_workers_error_comes_with_its_kind(worker, tmp_path):
    with WorkerProcess(worker, tmp_path / "log", tmp_path, until=time.monotonic() + 60) as process:
        assert process.ask(do="run") == {"heard": {"do": "run"}}
        with pytest.raises(WorkerError, match=r"^fake: does not run$") as caught:
            process.ask(do="fail", kind="PrecisionError")
        assert caught.value.kind == "PrecisionError"
        with pytest.raises(WorkerError, match=r"^fake: KeyError: does not run$"):
            process.ask(do="fail", kind="KeyError")
