"""Names to things: each entry is one file of a folder, read on first use."""

__all__ = ["Registry"]

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from tercet.errors import UnknownNameError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Entries of one kind, found by name; the folder of `package` is imported at the first question."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, T] = {}
        self._read = False

    def register(self, *names: str) -> Callable[[T], T]:
        """A decorator that enters what it decorates under these names."""

        def enter(entry: T) -> T:
            for name in names:
                if self._entries.setdefault(name, entry) is not entry:
                    raise ValueError(f"two {self.kind}s are named {name!r}")
            return entry

        return enter

    def names(self) -> list[str]:
        """All names, sorted."""
        self._load()
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def __getitem__(self, name: str) -> T:
        self._load()
        if name not in self._entries:
            raise UnknownNameError(f"There is no {self.kind} named {name!r}. {nearest(name, self._entries)}")
        return self._entries[name]

    def _load(self) -> None:
        if not self._read:
            package = importlib.import_module(self.package)
            for info in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self.package}.{info.name}")
            self._read = True
