"""The library of native kernels: found, checked, joined to torch's threads; or why it is not there."""

from __future__ import annotations

__all__ = ["FLOAT_LEVELS", "LEVELS", "Library", "absence", "bound", "library"]

import ctypes
import logging
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tercet.errors import InputError, nearest

logger = logging.getLogger(__name__)

# Instruction levels by name, as cpp/levels.h numbers them; of an architecture, best last.
LEVELS = {
    "scalar": 0,
    "avx2": 1,
    "avx_vnni": 2,
    "avx512": 3,
    "avx512_vnni": 4,
    "avx512_bf16": 5,
    "avx512_fp16": 6,
    "amx_int8": 7,
    "neon": 16,
    "neon_dot": 17,
    "neon_fp16": 18,
}
# Those at which the float32 kernels differ.
FLOAT_LEVELS = ("scalar", "avx2", "avx512", "neon")
_ABI = 2
_VARIABLE = "TERCET_KERNELS"
_FILE = Path(__file__).with_name("libtercet_kernels.so.1")


@dataclass(frozen=True, slots=True)
class Library:
    """The loaded library.

    Attributes:
        functions: its C functions, as attributes.
        levels: the instruction levels that run here and are allowed, best last.
        threaded: whether it shares torch's threads; if not, it computes on the caller's alone.
    """

    functions: ctypes.CDLL
    levels: tuple[str, ...]
    threaded: bool

    @property
    def level(self) -> str:
        """The best level that runs here and is allowed."""
        return self.levels[-1]

    def best(self, *wanted: str) -> int | None:
        """The number of the best allowed level among some, None where there is none of them."""
        return _best(self.levels, wanted)


@cache
def _best(levels: tuple[str, ...], wanted: tuple[str, ...]) -> int | None:
    found = [LEVELS[level] for level in levels if level in wanted]
    return max(found, default=None)


def library() -> Library | None:
    """The native kernels, None where they are absent; `absence` tells why.

    The environment variable TERCET_KERNELS=none leaves them alone; a level's name ("avx2") allows none above.

    Raises:
        InputError: TERCET_KERNELS names no level.
    """
    return _open(os.environ.get(_VARIABLE, ""))[0]


@cache
def bound(found: Library, name: str, signature: tuple[Any, ...]) -> Any:
    """A C function of the library, which gives an int, with the ctypes of its arguments."""
    function = getattr(found.functions, name)
    function.argtypes, function.restype = signature, ctypes.c_int
    return function


def absence() -> str | None:
    """Why there are no native kernels; None where there are."""
    return _open(os.environ.get(_VARIABLE, ""))[1]


@cache
def _open(wish: str) -> tuple[Library | None, str | None]:
    """The library and nothing, or nothing and why."""
    wish = wish.strip().lower()
    if wish == "none":
        return None, f"{_VARIABLE}=none asks for none"
    if wish and wish not in LEVELS:
        raise InputError(f"{_VARIABLE}={wish!r}: no such level. {nearest(wish, ['none', *LEVELS])}")
    if not _FILE.is_file():
        return None, (
            "this installation was built without a C++ compiler, or with TERCET_BUILD_KERNELS=0; install one "
            "(Debian: apt install g++) and install tercet again from its source"
        )
    try:
        functions = ctypes.CDLL(str(_FILE))
    except OSError as error:
        return None, f"{_FILE} cannot be loaded: {error}"
    if functions.tercet_abi() != _ABI:
        return None, f"{_FILE} is left over from another version of tercet; install tercet again"
    functions.tercet_levels.restype = ctypes.c_ulong
    bits = int(functions.tercet_levels())
    levels = tuple(name for name, number in LEVELS.items() if bits >> number & 1)
    if wish:
        levels = tuple(name for name in levels if LEVELS[name] <= LEVELS[wish])
    return Library(functions, levels, _share_threads(functions)), None


def _share_threads(functions: ctypes.CDLL) -> bool:
    """Give the library the entry points of the OpenMP runtime that torch loaded; whether there is one."""
    for path in _openmp_runtimes():
        try:
            runtime = ctypes.CDLL(str(path))
            entries = [
                ctypes.cast(getattr(runtime, name), ctypes.c_void_p)
                for name in ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
            ]
        except (OSError, AttributeError) as error:
            logger.debug("%s is not the OpenMP runtime: %s", path, error)
            continue
        functions.tercet_use_threads(*entries)
        return True
    logger.info("torch's OpenMP runtime was not found; the native kernels use one thread")
    return False


def _openmp_runtimes() -> list[Path]:
    """The OpenMP runtimes mapped into this process, torch's own before others."""
    import torch

    beside = Path(torch.__file__).parent / "lib"
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return sorted([*beside.glob("libgomp*"), *beside.glob("lib*omp*.dylib")])
    mapped = {Path(line.split(maxsplit=5)[5]) for line in lines if "omp" in line.rpartition("/")[2]}
    names = ("libgomp", "libomp", "libiomp5")
    found = [path for path in mapped if path.name.startswith(names)]
    return sorted(found, key=lambda path: (path.parent != beside, str(path)))
