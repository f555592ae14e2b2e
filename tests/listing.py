"""Machine code as objdump lists it."""

from __future__ import annotations

__all__ = ["inner_loops", "listed"]

import os
import re
import subprocess
from pathlib import Path


def listed(path: Path) -> str:
    """The instructions of a library or object."""
    command = ["objdump", "-d", "--no-show-raw-insn", str(path)]
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def inner_loops(listing: str) -> list[list[str]]:
    """Every run of instructions that ends with a jump back to its first one, in the order of its lines."""
    lines = [line.strip() for line in listing.splitlines() if re.match(r"\s*[0-9a-f]+:\t", line)]
    at = {line.split(":")[0]: number for number, line in enumerate(lines)}
    found = []
    for number, line in enumerate(lines):
        jump = re.search(r"\tj\w+\s+([0-9a-f]+)\b", line)
        if jump and number - 2000 < (first := at.get(jump[1], number + 1)) <= number:
            found.append(lines[first : number + 1])
    return found
