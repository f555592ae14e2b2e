"""Builds the native kernels where a C++ compiler is, and a pure package where not.

The kernels are one shared library with a plain C interface: no Python in it, so one wheel serves every Python
of a platform. `TERCET_BUILD_KERNELS=0` leaves them out. An instruction level that the compiler does not know
is left out alone. Everything else is said in pyproject.toml.

libstdc++ is the system's: what is taken of it came with GCC 4.8, and torch needs a newer one anyway. Linked
into the library it would ask for the C library of the machine that builds (glibc 2.35 with GCC 12).
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError, ExecError, LinkError, PlatformError

if TYPE_CHECKING:
    from distutils.ccompiler import CCompiler

SOURCES = Path("src/tercet/kernels/cpp")
LIBRARY = "libtercet_kernels.so.1"
FAILURES = (
    CCompilerError,  # in some releases of setuptools the base of the next two
    CompileError,
    LinkError,
    ExecError,
    PlatformError,
    OSError,
    subprocess.SubprocessError,
)
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
        "avx512_bf16": [*AVX512, "-mavx512bf16"],
        "avx512_fp16": [*AVX512, "-mavx512vnni", "-mavx512fp16"],
        "amx_int8": [*AVX512, "-mavx512vnni", "-mamx-tile", "-mamx-int8"],
    },
    "aarch64": {
        "neon": [],
        "neon_dot": ["-march=armv8.2-a+dotprod"],
        "neon_fp16": ["-march=armv8.2-a+dotprod+fp16"],
    },
}
# What GCC 9 or 10 does not know (the last needs GCC 12): features.cpp and the kernels can do without these.
NEWER = ("avx512_bf16", "avx_vnni", "amx_int8", "avx512_fp16")
ALL_LEVELS = {level for levels in LEVELS.values() for level in levels}


def machine() -> str:
    """The processor's architecture, as `LEVELS` names it."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def level_of(source: Path) -> str | None:
    """The instruction level that a file is for; None for what every processor runs."""
    return max((level for level in ALL_LEVELS if source.stem.endswith(f"_{level}")), key=len, default=None)


def sources(unknown: Collection[str] = ()) -> dict[Path, list[str]]:
    """The files to compile here, each with its own flags; without the levels that are unknown."""
    here = {level: flags for level, flags in LEVELS.get(machine(), {}).items() if level not in unknown}
    without = [f"-DTERCET_WITHOUT_{level.upper()}" for level in sorted(unknown)]
    return {
        source: [*COMMON, *without, *here.get(level_of(source) or "", [])]
        for source in sorted(SOURCES.glob("*.cpp"))
        if level_of(source) is None or level_of(source) in here
    }


class BuildKernels(build_ext):
    """Compiles each file for its instruction level and links one library without Python."""

    def get_ext_filename(self, fullname: str) -> str:
        """The library's name, the same for every Python."""
        return os.path.join(*fullname.split(".")[:-1], LIBRARY)

    def build_extension(self, ext: Extension) -> None:
        """One library of all levels that the compiler knows."""
        unknown = unknown_levels(self.compiler)
        if unknown:
            say(f"the compiler does not know {', '.join(sorted(unknown))}; the native kernels do without")
        objects = []
        try:
            for source, flags in sources(unknown).items():
                objects += self.compiler.compile(
                    [str(source)], output_dir=self.build_temp, extra_postargs=flags, depends=ext.depends
                )
            path = Path(self.get_ext_fullpath(ext.name))
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(f".{os.getpid()}.so")
            self.compiler.link_shared_object(objects, str(aside), target_lang="c++")
        except FAILURES:
            say("the native kernels were not built; TERCET_BUILD_KERNELS=0 installs without them")
            raise
        aside.replace(path)


class PlatformWheel(bdist_wheel):
    """A wheel for every Python 3 of this platform, or for all platforms where there are no kernels."""

    def get_tag(self) -> tuple[str, str, str]:
        """py3-none-<platform>, or py3-none-any."""
        _, _, plat = super().get_tag()
        return ("py3", "none", plat if self.distribution.has_ext_modules() else "any")


def say(sentence: str) -> None:
    """One line for whoever builds; pip shows it with --verbose, and where the build fails."""
    print(f"tercet: {sentence}", file=sys.stderr)


def attempt(compiler: CCompiler, flags: list[str], *, link: bool) -> Exception | None:
    """What goes wrong when a small file is compiled with some flags, and linked; None where nothing does."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text('extern "C" int tercet_probe(int x) { return x + 1; }\n')
        try:
            objects = compiler.compile([str(source)], output_dir=folder, extra_postargs=flags)
            if link:
                compiler.link_shared_object(objects, str(source.with_suffix(".so")), target_lang="c++")
        except FAILURES as error:
            return error
    return None


def unknown_levels(compiler: CCompiler) -> set[str]:
    """The newer levels that have files and whose flags the compiler does not know."""
    wanted = {level_of(source) for source in SOURCES.glob("*.cpp")}
    levels = {level: flags for level, flags in LEVELS.get(machine(), {}).items() if level in wanted}
    return {
        level
        for level, flags in levels.items()
        if level in NEWER and attempt(compiler, [*COMMON, *flags], link=False) is not None
    }


def compiles() -> bool:
    """Whether the kernels are wanted, and a compiler is here that builds a shared library."""
    if os.environ.get("TERCET_BUILD_KERNELS") == "0" or not sys.platform.startswith(("linux", "darwin")):
        return False
    # setuptools' own, under the name by which it knows itself: its errors are those of `FAILURES`.
    from distutils.ccompiler import new_compiler
    from distutils.sysconfig import customize_compiler

    compiler = new_compiler()
    customize_compiler(compiler)
    older = [flags for level, flags in LEVELS.get(machine(), {}).items() if level not in NEWER]
    for flags in ([], *older):
        error = attempt(compiler, [*COMMON, *flags], link=not flags)
        if error is not None:
            say(f"no C++ compiler for the native kernels, building without them: {error}")
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
