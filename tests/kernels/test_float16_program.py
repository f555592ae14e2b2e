"""The float16 kernels built into a program of their own: what a processor lacks imitated, and for Arm."""

import platform
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src/tercet/kernels/cpp"
PROGRAM = Path(__file__).parent / "cpp" / "float16_check.cpp"
ARM = "aarch64-linux-gnu-g++"
PARTS = ("float16", "features", "threads")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="signals and emulators of Linux"),
]


def build(monkeypatch, compiler, machine, options, folder):
    """The program, each file with the flags that the package is built with on a machine."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TERCET_BUILD_KERNELS", "0")
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    objects = []
    for path, flags in runpy.run_path("setup.py")["sources"]().items():
        if path.stem.startswith(PARTS):
            objects.append(str(folder / f"{path.stem}.o"))
            subprocess.run(
                [compiler, *flags, *options, "-c", str(ROOT / path), "-o", objects[-1]], check=True
            )
    program = folder / "check"
    command = [compiler, "-std=c++17", "-O2", *options, f"-I{SOURCES}", str(PROGRAM), *objects]
    subprocess.run([*command, "-o", str(program)], check=True)
    return str(program)


def agreed(command):
    """What the program prints, once it found that all is alike."""
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert not ran.stderr
    return ran.stdout


@pytest.mark.skipif(platform.machine() != "x86_64" or shutil.which("g++") is None, reason="no g++ for x86")
@pytest.mark.parametrize("sanitizer", [None, "address,undefined"])
def test_the_code_for_avx512_fp16_has_the_bits_of_the_scalar_level(monkeypatch, tmp_path, sanitizer):
    options = [] if sanitizer is None else ["-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    told = agreed([build(monkeypatch, "g++", "x86_64", options, tmp_path), "24"])
    assert "24 products agree" in told or told == "no AVX-512 here\n"


@pytest.mark.skipif(
    shutil.which(ARM) is None or shutil.which("qemu-aarch64") is None, reason="no cross compiler"
)
def test_the_code_for_fp16_of_arm_has_the_bits_of_the_scalar_level_in_an_emulator(monkeypatch, tmp_path):
    program = build(monkeypatch, ARM, "aarch64", ["-static"], tmp_path)
    assert "200 products agree" in agreed(["qemu-aarch64", program, "200"])
