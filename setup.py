"""Builds the native kernels where a C++ compiler is, and a pure package where not.

The kernels are one shared library with a plain C interface: no Python in it, so one wheel serves every Python
of a platform. `TERCET_BUILD_KERNELS=0` leaves them out. Everything else is said in pyproject.toml.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

SOURCES = Path("src/tercet/kernels/cpp")
LIBRARY = "libtercet_kernels.so.1"
COMMON = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-exceptions",
    "-fno-rtti",
    "-Wall",
    "-Wextra",
    "-g0",
]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"]
# How the sources of each instruction level are compiled: a file's name ends in its level.
LEVELS = {
    "x86_64": {
        "avx2": AVX2,
        "avx_vnni": [*AVX2, "-mavxvnni"],
        "avx512": AVX512,
        "avx512_vnni": [*AVX512, "-mavx512vnni"],
        "avx512_fp16": [*AVX512, "-mavx512vnni", "-mavx512fp16"],
        "amx_int8": [*AVX512, "-mavx512vnni", "-mamx-tile", "-mamx-int8"],
    },
    "aarch64": {
        "neon": [],
        "neon_dot": ["-march=armv8.2-a+dotprod"],
        "neon_fp16": ["-march=armv8.2-a+dotprod+fp16"],
    },
}
ALL_LEVELS = {level for levels in LEVELS.values() for level in levels}


def machine() -> str:
    """The processor's architecture, as `LEVELS` names it."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def level_of(source: Path) -> str | None:
    """The instruction level that a file is for; None for what every processor runs."""
    return max((level for level in ALL_LEVELS if source.stem.endswith(f"_{level}")), key=len, default=None)


def sources() -> dict[Path, list[str]]:
    """The files to compile here, each with its own flags."""
    here = LEVELS.get(machine(), {})
    return {
        source: [*COMMON, *here.get(level_of(source) or "", [])]
        for source in sorted(SOURCES.glob("*.cpp"))
        if level_of(source) is None or level_of(source) in here
    }


class BuildKernels(build_ext):
    """Compiles each file for its instruction level and links one library without Python."""

    def get_ext_filename(self, fullname: str) -> str:
        """The library's name, the same for every Python."""
        return os.path.join(*fullname.split(".")[:-1], LIBRARY)

    def build_extension(self, ext: Extension) -> None:
        """One library of all levels."""
        objects = []
        for source, flags in sources().items():
            objects += self.compiler.compile(
                [str(source)], output_dir=self.build_temp, extra_postargs=flags, depends=ext.depends
            )
        path = Path(self.get_ext_fullpath(ext.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}.so")
        self.compiler.link_shared_object(objects, str(aside), target_lang="c++")
        aside.replace(path)


class PlatformWheel(bdist_wheel):
    """A wheel for every Python 3 of this platform, or for all platforms where there are no kernels."""

    def get_tag(self) -> tuple[str, str, str]:
        """py3-none-<platform>, or py3-none-any."""
        _, _, plat = super().get_tag()
        return ("py3", "none", plat if self.distribution.has_ext_modules() else "any")


def compiles() -> bool:
    """Whether a compiler is here that knows every instruction level."""
    if os.environ.get("TERCET_BUILD_KERNELS") == "0" or not sys.platform.startswith(("linux", "darwin")):
        return False
    from setuptools._distutils.ccompiler import new_compiler
    from setuptools._distutils.sysconfig import customize_compiler

    levels = LEVELS.get(machine(), {})
    with tempfile.TemporaryDirectory() as folder:
        try:
            compiler = new_compiler()
            customize_compiler(compiler)
            for level in (None, *levels):
                source = Path(folder, f"probe_{level}.cpp")
                source.write_text('extern "C" int tercet_probe(int x) { return x + 1; }\n')
                flags = [*COMMON, *levels.get(level or "", [])]
                objects = compiler.compile([str(source)], output_dir=folder, extra_postargs=flags)
                compiler.link_shared_object(objects, str(source.with_suffix(".so")), target_lang="c++")
        except (CCompilerError, ExecError, PlatformError, OSError, subprocess.SubprocessError) as error:
            print(
                f"tercet: no C++ compiler for the native kernels, building without them: {error}",
                file=sys.stderr,
            )
            return False
    return True


def extensions() -> list[Extension]:
    """The kernels, where they can be built."""
    if not compiles():
        return []
    headers = [str(header) for header in sorted(SOURCES.glob("*.h"))]
    names = [str(source) for source in sources()]
    return [Extension("tercet.kernels.native_library", names, depends=headers, language="c++")]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernels, "bdist_wheel": PlatformWheel})
