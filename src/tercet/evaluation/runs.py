"""TREC run files: query, Q0, document, rank, score, name of the system."""

from __future__ import annotations

__all__ = ["Run", "read_run", "run_lines", "write_run"]

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import TypeAlias

from tercet.errors import InputError
from tercet.evaluation.ranked import Ranking
from tercet.evaluation.records import read_fields
from tercet.storage.aside import Aside, writing

Run: TypeAlias = Mapping[str, Ranking]


def write_run(path: str | Path, run: Run, system: str) -> None:
    """Writes a run, best first; the file appears when it is whole.

    Scores have nine digits, from which float32 comes back as it was, so that ties stay ties.

    Args:
        path: the file; one that is there is replaced.
        run: query -> its ranking.
        system: the last column; white space in it becomes "_".

    Raises:
        InputError: an id with white space, which would break the columns.
        OutputError: the file cannot be written.
    """
    name = "_".join(system.split()) or "tercet"
    file = Aside(Path(path))
    try:
        with writing(file.path):
            for query, ranking in run.items():
                file.file.write(run_lines(query, ranking, name).encode())
        file.commit()
    finally:
        file.discard()


def run_lines(query: str, ranking: Ranking, system: str) -> str:
    """One query's lines of a run, best first; `system` has no white space.

    Raises:
        InputError: an id with white space, which would break the columns.
    """
    _check_id(query, "query")
    rows = []
    for rank, (document, score) in enumerate(zip(ranking.ids, ranking.scores.tolist(), strict=True), start=1):
        _check_id(document, "document")
        rows.append(f"{query} Q0 {document} {rank} {score:.9g} {system}\n")
    return "".join(rows)


def read_run(path: str | Path) -> dict[str, Ranking]:
    """The rankings of a run file, which may be gzipped; its ranks are not looked at, as in trec_eval.

    Raises:
        InputError: naming the line: not six columns, a score that is no number, or a document that a query
            has twice.
    """
    found: dict[str, dict[str, float]] = {}
    for where, fields in read_fields(Path(path), None):
        if len(fields) != 6:
            raise InputError(
                f"{where}: {len(fields)} columns, where a run has six: query, Q0, document, rank, score, "
                "system."
            )
        query, _, document, _, score, _ = fields
        ranking = found.setdefault(query, {})
        if document in ranking:
            raise InputError(
                f"{where}: document {document!r} comes a second time for query {query!r}. "
                "Remove one of the lines."
            )
        ranking[document] = _number(score, where)
    if not found:
        raise InputError(f"{path}: there is no line in it.")
    return {query: Ranking.of(scores, where=f"{path}, query {query!r}") for query, scores in found.items()}


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise InputError(f"{where}: the score is {text!r}; it must be a finite number.")
    return value


def _check_id(name: str, what: str) -> None:
    if not name or any(map(str.isspace, name)):
        raise InputError(
            f"The {what} id {name!r} has white space in it, and a run file separates columns by it."
        )
