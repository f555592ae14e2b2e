"""The documentation of Python's own standard library: a text for each public function, class and method.

It is imported to be read, in a process of its own: whatever an import prints, opens or changes stays there.

    python examples/stdlib_docs.py > docs.jsonl
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple, TextIO

# They open windows or browsers, print, are tests or programs, or hold nothing that anyone would look for.
LEFT_OUT = {
    "antigravity", "distutils", "encodings", "ensurepip", "idlelib", "lib2to3", "msilib", "nt", "ntpath",
    "posix", "pydoc_data", "test", "this", "tkinter", "turtle", "turtledemo", "venv", "winreg", "xxlimited",
    "xxlimited_35", "xxsubtype",
}  # fmt: skip
_SECONDS = 120


class Doc(NamedTuple):
    """One entry: "random.choice", and its signature and docstring."""

    id: str
    text: str


def collect() -> list[Doc]:
    """All entries, in alphabetical order, collected in another process."""
    quiet = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    }
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", __file__],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=quiet,
        timeout=_SECONDS,
        check=True,
    )
    return [Doc(**json.loads(line)) for line in done.stdout.decode().splitlines()]


def main() -> None:
    """Prints the entries as JSON lines; whatever else is printed meanwhile goes nowhere."""
    with (
        os.fdopen(os.dup(1), "w", encoding="utf-8") as out,
        open(os.devnull, "w", encoding="utf-8") as nowhere,
    ):
        os.dup2(nowhere.fileno(), 1)
        write(out)


def write(out: TextIO) -> None:
    """Each docstring once, under the shortest path to it: random.choice, not random.Random.choice."""
    found = [entry for module in modules() for entry in public(module)]
    first: dict[str, Doc] = {}
    for entry, documentation in sorted(found, key=lambda pair: (pair[0].id.count("."), pair[0].id)):
        first.setdefault(documentation, entry)
    for entry in sorted(first.values()):
        print(json.dumps(entry._asdict(), ensure_ascii=False), file=out)


def modules() -> Iterator[ModuleType]:
    """Public modules and submodules that can be imported here."""
    for name in sorted(set(sys.stdlib_module_names) - LEFT_OUT):
        if not name.startswith("_"):
            yield from imported(name)


def imported(name: str) -> Iterator[ModuleType]:
    """A module and, if it is a package, what is public in it."""
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError, AttributeError, ValueError, RuntimeError, SystemExit):
        return  # not for this machine
    yield module
    for info in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if not info.name.startswith("_") and info.name not in ("test", "tests"):
            yield from imported(f"{name}.{info.name}")


def public(module: ModuleType) -> Iterator[tuple[Doc, str]]:
    """Entries of the functions, classes and methods that a module calls its own, and their docstrings."""
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    package = module.__name__.partition(".")[0]
    for name in sorted(set(names)):
        thing = getattr(module, name, None)
        home = getattr(thing, "__module__", None) or ""
        if not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        # What is only imported from elsewhere is documented there; helpers in C are named "_csv", "_asyncio".
        if home.partition(".")[0].lstrip("_") not in (package, "builtins", "io", ""):
            continue
        yield from documented(f"{module.__name__}.{name}", thing)
        if inspect.isclass(thing):
            for part, method in sorted(vars(thing).items()):
                if not part.startswith("_") and inspect.isroutine(method):
                    yield from documented(f"{module.__name__}.{name}.{part}", getattr(thing, part))


def documented(name: str, thing: object) -> Iterator[tuple[Doc, str]]:
    """The entry of one thing and its docstring, where there is one worth reading."""
    doc = getattr(thing, "__doc__", None)
    if not isinstance(doc, str) or len(doc) < 20:
        return
    try:
        signature = str(inspect.signature(thing))  # type: ignore[arg-type]
    except (ValueError, TypeError, AttributeError):
        signature = ""
    if len(signature) > 120 or " at 0x" in signature:  # an address differs from run to run
        signature = "(...)"
    doc = inspect.cleandoc(doc)
    yield Doc(name, f"{name.removeprefix('builtins.')}{signature}\n\n{doc}"), doc


if __name__ == "__main__":
    main()
