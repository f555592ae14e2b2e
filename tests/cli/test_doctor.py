"""`tercet doctor`: the page, its JSON, and what it says of a busy machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from planned import DRIFTED, UNSEEN, capability, measured, scheme
from tercet import planner
from tercet.cli.main import main
from tercet.planner import probing
from tercet.precision.dtype import DType
from tercet.precision.hardware import Capability

F32, F16, BF16, INT8 = DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16, DType.INT8
FAILURE = "layer_norm: \"LayerNormKernelImpl\" not implemented for 'Half'"


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What other tests measured of this machine is not there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def install(monkeypatch: pytest.MonkeyPatch, found: Capability) -> list[tuple[object, bool]]:
    calls: list[tuple[object, bool]] = []

    def probed(device: object = None, *, refresh: bool = False) -> Capability:
        calls.append((device, refresh))
        return found

    monkeypatch.setattr(planner, "capability", probed)
    return calls


def test_the_page_has_the_machine_the_table_and_what_auto_would_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = {F32: measured(1.0), BF16: measured(0.25, DRIFTED), F16: measured(None, UNSEEN, failure=FAILURE)}
    found = replace(
        capability(table), features=("avx2", "avx512f"), memory_limit="the cgroup /sys/fs/cgroup/job"
    )
    calls = install(monkeypatch, found)
    monkeypatch.setattr(probing, "library", lambda: None)
    monkeypatch.setattr(
        probing,
        "absence",
        lambda: (
            "this installation was built without a C++ compiler; install one (Debian: "
            "apt install g++) and install tercet again from its source"
        ),
    )
    assert main(["doctor"]) == 0
    page = capsys.readouterr().out
    assert calls == [(None, False)]
    for part in (
        "cpu: a CPU, 2 threads",
        "16.00 GB free of 24.00 GB (by the cgroup /sys/fs/cgroup/job)",
        "avx2 avx512f",
        "bfloat16 (torch_packed)   yes    4.00x",
        "float16 (torch_packed)    no",
        FAILURE,
        "auto stays with float32 (torch_packed)",
        "Not remembered",
        "  kernels   none: this installation was built without a C++ compiler",
    ):
        assert part in page, part
    assert all(len(line) <= 110 for line in page.splitlines())
    assert "Packed weights" not in page


def test_a_busy_machine_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    install(monkeypatch, replace(capability({F32: measured(1.0)}), quiet=False))
    assert main(["doctor"]) == 0
    page = capsys.readouterr().out
    assert "Other processes disturbed the measurement. It is remembered for an hour at most;" in page
    assert "--refresh` measures again when the machine is quiet" in page


def test_json_has_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = capability({F32: measured(1.0), F16: measured(0.5, UNSEEN), INT8: measured(0.25, None)})
    calls = install(monkeypatch, found)
    assert main(["doctor", "--json", "--device", "cpu", "--refresh"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert calls == [("cpu", True)]
    assert Capability.from_json(report["capability"]) == found
    assert report["auto"]["scheme"] == scheme(F16).to_json()
    assert report["remembered"] is None
    assert report["kernels"] == planner.kernels_here()
    assert set(report["versions"]) == {"tercet", "torch", "Python"}


def test_packed_weights_are_told_with_their_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    place = tmp_path / "tercet" / "weights"
    place.mkdir(parents=True)
    for name, size in (("a.packed", 2_000_000), ("b.packed", 1_000_000), (".c.part", 9)):
        (place / name).write_bytes(bytes(size))
    install(monkeypatch, capability({F32: measured(1.0)}))
    assert main(["doctor"]) == 0
    assert f"Packed weights: 2 files, 3 MB, in {place}" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 0
    packed = json.loads(capsys.readouterr().out)["packed_weights"]
    assert packed == {"folder": str(place), "files": 2, "bytes": 3_000_000}


def test_a_device_that_is_not_there_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--device", "cuda:17"]) == 2
    assert "tercet doctor: device='cuda:17': no such device here. There is: " in capsys.readouterr().err
