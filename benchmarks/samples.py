"""Raw samples in a file, one JSON line each, and what is made of them: medians with their spread."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median, the smallest and the largest of the clean samples, and how many there were.

    `clean` is False where there was no clean sample and the disturbed ones had to do.
    """

    median: float
    low: float
    high: float
    number: int
    clean: bool = True

    def __str__(self) -> str:
        if self.number == 1:
            return f"{digits(self.median)} (n=1{'' if self.clean else ', disturbed'})"
        span = f"{digits(self.low)}-{digits(self.high)}"
        return f"{digits(self.median)} ({span}, n={self.number}{'' if self.clean else ', disturbed'})"


def digits(value: float) -> str:
    """Three significant digits, thousands apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def spread(rows: Iterable[Row], field: str = "seconds") -> Spread | None:
    """Of the clean samples; of the disturbed ones if there is no other; None of nothing."""
    rows = list(rows)
    clean = [row[field] for row in rows if row.get("clean", True)]
    values = clean or [row[field] for row in rows]
    if not values:
        return None
    return Spread(median(values), min(values), max(values), len(values), clean=bool(clean))


def ratio(theirs: Spread, ours: Spread) -> Spread:
    """How many times as large theirs is: of the medians; between the nearest and the farthest samples."""
    return Spread(
        theirs.median / ours.median,
        theirs.low / ours.high,
        theirs.high / ours.low,
        min(theirs.number, ours.number),
        theirs.clean and ours.clean,
    )


class Store:
    """The file of samples: a run that was stopped goes on.

    Args:
        path: one JSON line a sample; the first line says of what machine, versions and source.
        identity: machine, versions and source now. A file of others is put aside, never added to.
        fresh: begin anew in any case.

    Attributes:
        set_aside: where samples that were there have gone, if they did.
    """

    def __init__(self, path: Path, identity: Row, *, fresh: bool = False) -> None:
        self.path, self.identity = path, identity
        self.rows: list[Row] = []
        self.set_aside: Path | None = None
        if path.exists():
            rows = list(read(path))
            if rows and rows[0].get("identity") == identity and not fresh:
                self.rows = rows[1:]
                # What was cut short when a run was stopped must not spoil the next line.
                aside = path.with_name(f".{path.name}.part")
                aside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
                aside.replace(path)
                return
            self.set_aside = path.rename(free_name(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write({"identity": identity}, "w")

    @property
    def key(self) -> str:
        """Of the identity: what else belongs to these samples is kept under it."""
        return key_of(self.identity)

    def add(self, **row: Any) -> Row:
        """Keep a sample, on disk at once."""
        self.rows.append(row)
        self._write(row, "a")
        return row

    def find(self, **wanted: Any) -> list[Row]:
        """The rows that have all of these."""
        return [row for row in self.rows if all(row.get(key) == value for key, value in wanted.items())]

    def _write(self, row: Row, mode: str) -> None:
        with self.path.open(mode, encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def key_of(identity: Row) -> str:
    """Twelve characters that differ where machine, versions or source do."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def read(path: Path) -> Iterator[Row]:
    """The rows of a file; a last line that was cut short is left out."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def free_name(path: Path) -> Path:
    """results.json -> results-1.json, or the first number that is free."""
    number = 1
    while (other := path.with_stem(f"{path.stem}-{number}")).exists():
        number += 1
    return other
