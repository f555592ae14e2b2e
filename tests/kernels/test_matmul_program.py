"""The kernels built into a program of their own: under sanitizers, and for Arm in an emulator."""

import os
import platform
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).parent / "cpp" / "matmul_check.cpp"
ARM = "aarch64-linux-gnu-g++"
OTHERS = ("attention",)  # kernels that the program does not call
pytestmark = pytest.mark.slow
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="sanitizers and emulators of Linux")


def sources(monkeypatch, machine):
    """The files that the package is built from on a machine, with the flags of each."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TERCET_BUILD_KERNELS", "0")
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    found = runpy.run_path("setup.py")["sources"]()
    return {ROOT / path: flags for path, flags in found.items() if not path.stem.startswith(OTHERS)}


def build(compiler, files, options, folder):
    objects = []
    for path, flags in files.items():
        objects.append(str(folder / f"{path.stem}.o"))
        subprocess.run([compiler, *flags, *options, "-c", str(path), "-o", objects[-1]], check=True)
    program = folder / "check"
    include = f"-I{ROOT / 'src/tercet/kernels/cpp'}"
    command = [
        compiler,
        "-std=c++17",
        *options,
        include,
        str(PROGRAM),
        *objects,
        "-o",
        str(program),
        "-pthread",
    ]
    subprocess.run(command, check=True)
    return program


def levels_that_agree(command):
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert not ran.stderr
    return {int(line.split()[1].rstrip(":")) for line in ran.stdout.splitlines() if line.endswith("agree")}


@on_linux
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_no_level_reads_past_a_buffer_or_races(monkeypatch, tmp_path, sanitizer):
    options = ["-O1", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    program = build("g++", sources(monkeypatch, platform.machine()), options, tmp_path)
    assert 0 in levels_that_agree([str(program), "300"])


@on_linux
@pytest.mark.skipif(
    shutil.which(ARM) is None or shutil.which("qemu-aarch64") is None, reason="no cross compiler"
)
def test_the_levels_of_arm_agree_in_an_emulator(monkeypatch, tmp_path):
    program = build(ARM, sources(monkeypatch, "aarch64"), ["-static"], tmp_path)
    assert levels_that_agree(["qemu-aarch64", str(program), "300"]) == {0, 16, 17}
