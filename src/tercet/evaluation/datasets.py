"""What a data set asks for, and the data set once it was checked."""

from __future__ import annotations

__all__ = ["RETRIEVAL_ALONE", "TASKS", "Checked", "open_checked", "task_of"]

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.errors import InputError, UnknownNameError, nearest
from tercet.evaluation import stored
from tercet.evaluation.candidates import has_candidates, read_candidates
from tercet.evaluation.collection import Collection
from tercet.evaluation.layouts import open_collection
from tercet.evaluation.records import file_hash
from tercet.evaluation.similarity import GoldPair, is_similarity, read_pairs

TASKS = ("retrieval", "similarity", "reranking")
# Options that mean something where a collection is searched, and nowhere else.
RETRIEVAL_ALONE = ("layout", "split", "remove_query", "ignore_missing")


@dataclass(frozen=True, slots=True, eq=False)
class Checked:
    """A data set that can be used to its last line.

    Attributes:
        sha256: of everything in it, and how it is read.
        described: what it is, for the report.
        collection: of retrieval.
        pairs: of similarity.
    """

    sha256: str
    described: dict[str, Any]
    collection: Collection | None = None
    pairs: tuple[GoldPair, ...] = ()


def task_of(path: Path, named: str | None) -> str:
    """The task that was named, or what the form of the data asks for.

    Raises:
        UnknownNameError: there is no such task.
        InputError: a file of no known form.
    """
    if named is not None:
        if named not in TASKS:
            raise UnknownNameError(f"There is no task {named!r}. {nearest(named, TASKS)}")
        return named
    if not path.is_file():
        return "retrieval"
    if is_similarity(path):
        return "similarity"
    if has_candidates(path):
        return "reranking"
    raise InputError(
        f"{path} is neither pairs with scores (sentence1, sentence2, score) nor queries with documents "
        "(query, pos, neg). Give the folder of a collection, or name the columns so."
    )


def open_checked(
    task: str, path: Path, *, layout: str | None, split: str | None, ignore_missing: bool
) -> Checked:
    """The data set, read through once.

    Raises:
        InputError: naming file and line.
    """
    if task == "retrieval":
        found = open_collection(path, layout_name=layout, split=split, ignore_missing=ignore_missing)
        return Checked(found.sha256, found.to_json(), found)
    pairs: tuple[GoldPair, ...] = ()
    if task == "similarity":
        read, files = read_pairs(path)
        pairs, counts = tuple(read), {"pairs": len(read)}
    else:
        files, counts = [path], {"queries": 0, "documents": 0}
        for one in read_candidates(path):
            counts["queries"] += 1
            counts["documents"] += len(one.positive) + len(one.negative)
        if not counts["queries"]:
            raise InputError(f"{path}: there is no line in it.")
    sha256 = stored.key_of({str(number): file_hash(file) for number, file in enumerate(files)})
    return Checked(sha256, {"name": str(path), "sha256": sha256, **counts, "notes": []}, None, pairs)
