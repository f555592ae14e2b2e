"""States of a run on disk: written aside, the newest kept, read without a pickle."""

from __future__ import annotations

__all__ = ["newest_state", "read_state", "write_state"]

import shutil
from pathlib import Path
from typing import Any

import torch

from tercet.checkpoint.writer import write_aside
from tercet.errors import CheckpointError

_FILE = "state.pt"


def write_state(folder: Path, state: dict[str, Any], *, step: int, keep: int) -> Path:
    """The folder of the state, `step-00000100`; of older ones so many stay that there are `keep`.

    Raises:
        OutputError: it cannot be written; the older ones are still there.
    """
    target = folder / f"step-{step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        return target  # the same step of the same run
    with write_aside(target) as aside:
        torch.save(state, aside / _FILE)
    for old in _states(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def newest_state(folder: Path) -> Path | None:
    """The folder of the newest state of a run, or None."""
    found = _states(folder)
    return found[-1] if found else None


def read_state(folder: Path) -> dict[str, Any]:
    """What `write_state` was given; tensors and plain values alone are read.

    Raises:
        CheckpointError: it is damaged.
    """
    path = folder / _FILE
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its readers do
        raise CheckpointError(
            f"{path}: is not a state of a run ({error}). Remove its folder to go on from the one before."
        ) from None
    return state


def _states(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if (path / _FILE).is_file())
