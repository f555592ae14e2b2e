"""Hashes of weight files: the hub's own where it gives them, else computed once and remembered."""

from __future__ import annotations

__all__ = ["hash_file", "hash_weights"]

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from tercet.cache import read_json, write_json
from tercet.errors import CheckpointError

_REMEMBERED = "weights.json"
_MOST_REMEMBERED = 512
_SHA256 = re.compile(r"[0-9a-f]{64}")


def hash_weights(folder: Path, files: Sequence[Path]) -> str:
    """One sha256 over the files' sha256 and their places in the folder, in any order of `files`."""
    lines = sorted(f"{path.relative_to(folder).as_posix()} {hash_file(path)}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """The sha256 of a file in hexadecimal: its blob's name in the hub's cache, else computed once."""
    try:
        real = path.resolve(strict=True)
        if real.parent.name == "blobs" and _SHA256.fullmatch(real.name):
            return real.name
        status = real.stat()
        remembered = read_json(_REMEMBERED)
        entries = remembered if isinstance(remembered, dict) else {}
        known = entries.get(str(real))
        # The time of change as well: archives and package stores set every file's time of writing alike.
        key = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}
        if isinstance(known, dict) and {**known, "sha256": ""} == {**key, "sha256": ""}:
            digest = known.get("sha256")
            if isinstance(digest, str) and _SHA256.fullmatch(digest):
                return digest
        with real.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}. Was it removed?") from error
    entries.pop(str(real), None)
    entries[str(real)] = {**key, "sha256": digest}
    # The oldest go first: a dict keeps its order, and JSON too.
    write_json(_REMEMBERED, dict(list(entries.items())[-_MOST_REMEMBERED:]))
    return digest
