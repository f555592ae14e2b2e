"""Files that commands for training data write."""

from __future__ import annotations

__all__ = ["check_output"]

from collections.abc import Iterable
from pathlib import Path

from tercet.errors import OutputError


def check_output(output: str, *, inputs: Iterable[str | None], overwrite: bool) -> None:
    """An error where JSON lines cannot be written under that name.

    Raises:
        OutputError: another suffix, a folder, an input itself, or there already.
    """
    path = Path(output)
    if path.suffix != ".jsonl":
        raise OutputError(f"{output}: JSON lines are written; give a name that ends in .jsonl.")
    if path.is_dir():
        raise OutputError(f"{output}: is a folder. Give the name of a file in it.")
    if path.exists():
        if any(one is not None and Path(one).exists() and path.samefile(one) for one in inputs):
            raise OutputError(f"{output}: is an input itself. Give the output another name.")
        if not overwrite:
            raise OutputError(f"{output}: is there already. Say --overwrite, or give another name.")
