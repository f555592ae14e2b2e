"""How setup.py builds the kernels, with an older compiler or none, and what the library asks for."""

import ctypes
import os
import platform
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools

from tercet.kernels import native

ROOT = Path(__file__).parents[2]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="how a library of Linux is read")


def set_up(monkeypatch):
    """What setup.py hands to setuptools here."""
    given = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", lambda **options: given.update(options))
    runpy.run_path("setup.py")
    return given


def test_without_a_compiler_the_package_is_pure_and_one_line_says_why(monkeypatch, capfd):
    for variable in ("CC", "CXX", "LDSHARED", "LDCXXSHARED"):
        monkeypatch.setenv(variable, "/nonexistent/compiler")
    monkeypatch.delenv("TERCET_BUILD_KERNELS", raising=False)
    assert set_up(monkeypatch)["ext_modules"] == []
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("tercet: ")]
    assert "no C++ compiler for the native kernels, building without them: " in line
    assert "/nonexistent/compiler" in line


def test_the_kernels_can_be_left_out_without_a_word(monkeypatch, capfd):
    monkeypatch.setenv("TERCET_BUILD_KERNELS", "0")
    assert set_up(monkeypatch)["ext_modules"] == []
    assert capfd.readouterr().err == ""


@on_linux
@pytest.mark.skipif(not native._FILE.is_file(), reason="built without native kernels")
@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf")
def test_the_library_exports_its_own_names_and_asks_for_nothing_newer_than_manylinux2014():
    assert runpy.run_path(str(ROOT / "scripts/check_wheels.py"))["library"](native._FILE) == []


@on_linux
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None or platform.machine() != "x86_64", reason="no g++ for x86-64")
def test_levels_that_the_compiler_does_not_know_are_left_out_and_the_others_built(tmp_path):
    compiler = tmp_path / "g++-10"
    compiler.write_text(
        "#!/bin/sh\n"
        'for flag; do case "$flag" in -mavx512[bf][fp]16|-mavxvnni|-mamx-int8) exit 1;; esac; done\n'
        'exec g++ "$@"\n'
    )
    compiler.chmod(0o755)
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path)]
    done = subprocess.run(
        [*command, "--build-temp", str(tmp_path / "objects")],
        cwd=ROOT,
        env={**os.environ, "CXX": str(compiler), "CXXFLAGS": "-O0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (
        "does not know amx_int8, avx512_bf16, avx512_fp16, avx_vnni; the native kernels do without"
        in done.stderr
    )
    # Everything is resolved at once: a level that is named and not built would fail here.
    built = ctypes.CDLL(str(tmp_path / "tercet/kernels" / native._FILE.name), mode=os.RTLD_NOW)
    built.tercet_levels.restype = ctypes.c_ulong
    levels = {name for name, number in native.LEVELS.items() if built.tercet_levels() >> number & 1}
    assert levels == set(native.library().levels) - {"amx_int8", "avx512_bf16", "avx512_fp16", "avx_vnni"}
