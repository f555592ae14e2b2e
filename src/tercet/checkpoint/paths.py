"""Files of a model folder: found without leaving it, and small JSON read with clear errors."""

from __future__ import annotations

__all__ = ["finite", "inside", "plain", "read_json_file", "read_json_object"]

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

from tercet.errors import CheckpointError, kind_of

# tokenizer.json is not read here; the largest configuration seen is an index of shards of some megabytes.
_MAX_JSON_BYTES = 64 << 20
_LARGEST = 3.4028234663852886e38  # of float32


def inside(folder: Path, relative: str, *, said_by: str) -> Path:
    """The path of `relative` in the folder; what leads out of it is refused.

    The hub's cache is the exception that is meant: its files are links to the blobs of the same repository.

    Args:
        folder: the model's folder.
        relative: as a file of the checkpoint names it.
        said_by: which file names it, for the message.
    """
    parts = PurePosixPath(relative).parts
    if os.path.isabs(relative) or ".." in parts or "\\" in relative or ":" in relative or "\0" in relative:
        raise CheckpointError(
            f"{folder / said_by} refers to {relative!r}, which leaves the model's folder. "
            "Only files of the folder itself are read; if you trust this one, copy the file into the folder."
        )
    path = folder.joinpath(*parts)
    home = folder.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent)
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be followed: {error}. Remove the circular link.") from error
    if not any(real.is_relative_to(place) for place in allowed):
        raise CheckpointError(
            f"{path} is a link to {real}, outside the model's folder. Replace the link by a copy of the file."
        )
    return path


def finite(value: object) -> float | None:
    """A number of JSON as one that float32 can hold; None of anything else."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    # Compared as it is: to a float, a whole number of hundreds of digits cannot be made. Nor is a NaN below.
    return float(value) if -_LARGEST <= value <= _LARGEST else None


def plain(relative: str) -> str:
    """A folder's place without what does not matter: "./1_Pooling/" is "1_Pooling", "." the root, ""."""
    path = PurePosixPath(relative).as_posix()
    return "" if path == "." else path


def read_json_file(path: Path) -> Any:
    """What the JSON file holds."""
    try:
        size = path.stat().st_size
        if size > _MAX_JSON_BYTES:
            raise CheckpointError(
                f"{path} has {size:,} bytes: too large for a configuration. Fetch it again."
            )
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}). Fetch or write it again.") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The same, where only an object makes sense."""
    found = read_json_file(path)
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds {kind_of(found)}, expected a JSON object with settings.")
    return found
