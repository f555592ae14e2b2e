"""The float32 kernels built into a program of their own: under a sanitizer, and for Arm in an emulator."""

import platform
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools

from tercet.kernels.native import LEVELS, library

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).parent / "cpp" / "float32_check.cpp"
ARM = "aarch64-linux-gnu-g++"
PARTS = ("float32", "attention", "norm", "features", "threads")
ROUNDS = 60
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="sanitizers and emulators of Linux"),
]


def build(monkeypatch, compiler, machine, options, folder):
    """The program, each file with the flags that the package is built with on a machine."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TERCET_BUILD_KERNELS", "0")
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    objects = []
    files = runpy.run_path("setup.py")["sources"]().items()
    for path, flags in ((path, flags) for path, flags in files if path.stem.startswith(PARTS)):
        objects.append(str(folder / f"{path.stem}.o"))
        subprocess.run([compiler, *flags, *options, "-c", str(path), "-o", objects[-1]], check=True)
    program = folder / "check"
    command = [
        compiler,
        "-std=c++17",
        *options,
        f"-I{ROOT / 'src/tercet/kernels/cpp'}",
        str(PROGRAM),
        *objects,
    ]
    subprocess.run([*command, "-o", str(program), "-pthread"], check=True)
    return str(program)


def agreed(command):
    """Level -> how many products, attentions, norms, bfloat16 attentions and embeddings agreed."""
    ran = subprocess.run([*command, str(ROUNDS)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert not ran.stderr
    lines = (re.findall(r"\b\d+", line) for line in ran.stdout.splitlines())
    return {int(level): tuple(map(int, counts)) for level, *counts in lines}


@pytest.mark.skipif(platform.machine() != "x86_64" or shutil.which("g++") is None, reason="no g++ for x86")
def test_no_float32_kernel_reads_past_a_buffer(monkeypatch, tmp_path):
    options = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    found = agreed([build(monkeypatch, "g++", "x86_64", options, tmp_path)])
    here = () if library() is None else library().levels
    for level in {"avx2", "avx512"} & set(here):
        assert found[LEVELS[level]] == (ROUNDS, ROUNDS, ROUNDS, 0, ROUNDS)
    if "avx512_bf16" in here:
        assert found[LEVELS["avx512_bf16"]][3] == ROUNDS


@pytest.mark.skipif(
    shutil.which(ARM) is None or shutil.which("qemu-aarch64") is None, reason="no cross compiler"
)
def test_the_float32_kernels_of_arm_agree_in_an_emulator(monkeypatch, tmp_path):
    program = build(monkeypatch, ARM, "aarch64", ["-O2", "-static"], tmp_path)
    assert agreed(["qemu-aarch64", program])[LEVELS["neon"]] == (ROUNDS, ROUNDS, ROUNDS, 0, ROUNDS)
