import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tercet.errors import InputError
from tercet.kernels import native

built = pytest.mark.skipif(not native._FILE.is_file(), reason="built without native kernels")
there = pytest.mark.skipif(native.library() is None, reason="no native kernels in this run")


def level_in_a_child(wish):
    code = (
        "from tercet.kernels.native import *; found = library(); print(found.level if found else absence())"
    )
    child = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TERCET_KERNELS": wish},
        capture_output=True,
        text=True,
        check=True,
    )
    return child.stdout.strip()


def test_either_the_library_is_there_or_a_reason():
    assert (native.library() is None) is (native.absence() is not None)


def test_what_is_absent_says_how_to_mend(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "_FILE", tmp_path / "gone.so")
    _, reason = native._open.__wrapped__("")
    assert "install tercet again" in reason


def test_a_file_that_is_no_library_is_refused_with_its_name(monkeypatch, tmp_path):
    file = tmp_path / "broken.so"
    file.write_bytes(b"not a library")
    monkeypatch.setattr(native, "_FILE", file)
    found, reason = native._open.__wrapped__("")
    assert found is None
    assert str(file) in reason


def test_the_environment_can_ask_for_none(monkeypatch):
    monkeypatch.setenv("TERCET_KERNELS", "none")
    assert native.library() is None
    assert "TERCET_KERNELS" in native.absence()


def test_an_unknown_level_is_refused_with_the_nearest(monkeypatch):
    monkeypatch.setenv("TERCET_KERNELS", "avx521")
    with pytest.raises(InputError, match="avx512"):
        native.library()


@built
def test_the_environment_can_ask_for_a_lower_level():
    assert level_in_a_child("scalar") == "scalar"


@there
def test_every_processor_runs_the_scalar_level():
    assert native.library().levels[0] == "scalar"


@there
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells the features of its processor")
def test_the_levels_agree_with_what_the_system_says():
    text = Path("/proc/cpuinfo").read_text()
    flags = set(text[text.index("flags") :].splitlines()[0].split()) if "flags" in text else set()
    levels = native.library().levels
    for flag, level in (("avx2", "avx2"), ("avx512bw", "avx512"), ("avx512_vnni", "avx512_vnni")):
        assert (flag in flags) is (level in levels)


@there
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="torch brings GCC's runtime on Linux")
def test_the_library_shares_the_threads_of_torch_and_brings_none_of_its_own():
    assert native.library().threaded
    torch.ones(64, 64) @ torch.ones(64, 64)
    runtimes = {
        line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libgomp" in line
    }
    assert len(runtimes) == 1
