"""A file of examples: every line checked once, then read by number; no text stays in memory."""

from __future__ import annotations

__all__ = ["Measure", "Source", "open_source"]

import hashlib
import json
import os
import tempfile
import weakref
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tercet.errors import InputError, kind_of
from tercet.storage.aside import writing
from tercet.storage.lines import Lines, open_file
from tercet.storage.tables import open_table
from tercet.training.data.example import Example, example_of, unused
from tercet.training.recipe import DataRecipe

# How long each text is, in whatever batches are counted.
Measure: TypeAlias = Callable[[Sequence[str]], Sequence[int]]

_CHUNK = 512  # lines whose texts are measured together
_USUAL_GROUP = 8
_PLAIN = (".jsonl", ".json", ".ndjson")
_TABLES = (".csv", ".tsv", ".tab", ".parquet", ".pq")


class _Descriptor:
    """An open file that is read at any place by any thread; closed when nobody has it any more."""

    def __init__(self, file: BinaryIO) -> None:
        self.number = os.dup(file.fileno())
        self.close = weakref.finalize(self, os.close, self.number)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The examples of one file; may be used by several threads, and goes on in forked processes.

    Attributes:
        recipe: how it is used.
        kind: FlagEmbedding's type: the recipe's, else the file's, else "normal".
        group_size: passages of each query in a batch.
        sizes: (examples, 3) int32, how long query, longest positive and longest negative are.
        scored, labelled: whether every example has a teacher's scores, or a label.
        some_scored: whether any example has a teacher's scores.
        without_scores: the first line without scores, or None.
        notes: what was left out, in sentences.
        paired: each passage is read together with its query.
    """

    recipe: DataRecipe
    kind: str
    group_size: int
    sizes: NDArray[np.int32]
    scored: bool
    some_scored: bool
    labelled: bool
    without_scores: str | None
    notes: tuple[str, ...]
    paired: bool
    _file: _Descriptor
    _offsets: NDArray[np.int64]  # (examples, 2): where a line begins and ends
    _stamp: tuple[int, int] | None

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, row: int) -> Example:
        start, end = (int(bound) for bound in self._offsets[row])
        line = os.pread(self._file.number, end - start, start)
        try:
            return example_of(json.loads(line), f"{self.recipe.path}, example {row + 1}")
        except (ValueError, InputError) as error:
            raise self._changed() from error

    def group_sizes(self) -> NDArray[np.int64]:
        """(examples,) how long each query and its passages can be together."""
        query, positive, negative = self.sizes.T.astype(np.int64)
        times = self.group_size if self.paired else 1
        total: NDArray[np.int64] = times * query + positive + (self.group_size - 1) * negative
        return total

    def check_unchanged(self) -> None:
        """An error where the file is not the one that was checked.

        Raises:
            InputError: its size or its time differs.
        """
        if self._stamp is not None and _stamp(self._file) != self._stamp:
            raise self._changed()

    def digest(self) -> str:
        """A hash of what is read of the file: its lines, where they stand, and how many are used."""
        found = hashlib.blake2b(self._offsets.tobytes(), digest_size=16)
        place, end = 0, int(self._offsets[:, 1].max())
        while part := os.pread(self._file.number, min(1 << 20, end - place), place):
            found.update(part)
            place += len(part)
        return found.hexdigest()

    def require_scores(self, loss: str) -> None:
        """An error where an example has no teacher's scores, which `loss` learns from."""
        if self.without_scores is not None:
            raise InputError(
                f"{self.without_scores}: there are no pos_scores and neg_scores, and {loss} learns from "
                "them. Write them with tercet distill-scores, or take another loss."
            )

    def require_labels(self, loss: str) -> None:
        """An error where examples have no label, which `loss` learns from."""
        if not self.labelled:
            raise InputError(
                f"{self.recipe.path}: there is no label or score, and {loss} learns from it. Add the column, "
                "or take another loss."
            )

    def close(self) -> None:
        """Closes the file; whoever forgets a source closes it, too."""
        self._file.close()

    def _changed(self) -> InputError:
        return InputError(
            f"{self.recipe.path}: the file changed after it was checked. Leave it as it is while it is used, "
            "and start again."
        )


def open_source(
    recipe: DataRecipe,
    *,
    measure: Measure | None = None,
    paired: bool = False,
    spool_folder: str | Path | None = None,
) -> Source:
    """The examples of a file, after every line was checked.

    A plain .jsonl is read where it lies; other files are copied once, line by line, to a file without a name.

    Args:
        recipe: which file, and how it is used.
        measure: how long texts are; characters by default.
        paired: each passage is read together with its query, as a reranker reads it.
        spool_folder: where such copies lie; None for the system's temporary folder.

    Raises:
        InputError: naming file and line: what is wrong with it; or the file has no examples.
    """
    _check_suffix(recipe.path)
    return _Check(recipe, measure or _characters, paired, spool_folder).source()


def _check_suffix(path: str) -> None:
    """An error for what is no file of examples; the suffix alone says what it is."""
    if path == "-":
        raise InputError("Examples are read again and again: name a file, not '-'.")
    name = path[:-3] if path.lower().endswith(".gz") else path
    suffix = PurePath(name).suffix.lower()
    if suffix not in _PLAIN + _TABLES:
        raise InputError(
            f"{path}: the suffix does not say what it holds. Files of examples are .jsonl, .csv, .tsv or "
            ".parquet (texts also with .gz behind): rename it, or write it as one of these."
        )


def _characters(texts: Sequence[str]) -> list[int]:
    return [len(text) for text in texts]


class _Check:
    """One reading of a file from its beginning to its end."""

    def __init__(
        self, recipe: DataRecipe, measure: Measure, paired: bool, spool_folder: str | Path | None
    ) -> None:
        self.recipe = recipe
        self.measure = measure
        self.paired = paired
        self.offsets = array("q")  # begin and end of each line in turn
        self.sizes = array("i")  # query, longest positive and longest negative in turn
        self.kinds: dict[str | None, str] = {}
        self.labels: dict[bool, str] = {}
        self.dropped = 0
        self.unused: Counter[str] = Counter()
        self.without: dict[str, str] = {}  # "scores", "negatives" -> the first line that has none
        self.fewest = self.most = -1
        self.some_scored = False
        plain = PurePath(recipe.path).suffix.lower() in _PLAIN
        self.spool: BinaryIO | None = None
        if not plain:
            folder = None if spool_folder is None else str(spool_folder)
            self.spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - the source keeps it

    def source(self) -> Source:
        try:
            return self._source()
        except BaseException:
            if self.spool is not None:
                self.spool.close()
            raise

    def _source(self) -> Source:
        path = self.recipe.path
        examples = self._examples()
        if self.recipe.max_examples is not None:
            examples = islice(examples, self.recipe.max_examples)
        while chunk := list(islice(examples, _CHUNK)):
            self._measure(chunk)
        if not self.offsets:
            raise InputError(f"{path}: there is no example in it.")
        kind: str = self.recipe.kind or next(iter(self.kinds), None) or "normal"
        group = self._group(kind)
        if self.spool is not None:
            self.spool.flush()
            file = _Descriptor(self.spool)
            self.spool.close()
        else:
            with open_file(path) as opened:
                file = _Descriptor(opened)
        return Source(
            self.recipe,
            kind,
            group,
            np.array(self.sizes, dtype=np.int32).reshape(-1, 3),
            scored="scores" not in self.without,
            some_scored=self.some_scored,
            labelled=True in self.labels,
            without_scores=self.without.get("scores"),
            notes=self._notes(group),
            paired=self.paired,
            _file=file,
            _offsets=np.array(self.offsets, dtype=np.int64).reshape(-1, 2),
            _stamp=_stamp(file) if self.spool is None else None,
        )

    def _examples(self) -> Iterator[Example]:
        """The examples, each entered with the place where it can be read again."""
        for where, values, place in self._in_place() if self.spool is None else self._rows():
            example = example_of(values, where)
            self._enter(example, where, list(values))
            self.offsets.extend(place or self._copy(values))
            yield example

    def _copy(self, values: dict[str, Any]) -> tuple[int, int]:
        """Where the values of an example, found to be sound, now stand."""
        assert self.spool is not None
        start = self.offsets[-1] if self.offsets else 0
        line = json.dumps(values, ensure_ascii=False).encode() + b"\n"
        with writing(Path(self.recipe.path + " (copied line by line)")):
            self.spool.write(line)
        return start, start + len(line)

    def _in_place(self) -> Iterator[tuple[str, dict[str, Any], tuple[int, int]]]:
        lines = Lines(self.recipe.path)
        try:
            for line in lines:
                if not line.isspace():
                    # The byte-order mark belongs to the first line, and json.loads takes it from bytes alone.
                    start = lines.offset + (3 if lines.number == 1 and self._marked() else 0)
                    yield lines.where, _object(line, lines.where), (start, start + len(line.encode()))
        finally:
            lines.close()

    def _marked(self) -> bool:
        with Path(self.recipe.path).open("rb") as file:
            return file.read(3) == b"\xef\xbb\xbf"

    def _rows(self) -> Iterator[tuple[str, dict[str, Any], None]]:
        """Lines that have to be copied."""
        path = self.recipe.path
        if path.lower().endswith(".gz") and PurePath(path[:-3]).suffix.lower() in _PLAIN:
            lines = Lines(path)
            try:
                for line in lines:
                    if not line.isspace():
                        yield lines.where, _object(line, lines.where), None
            finally:
                lines.close()
            return
        table = open_table(path)
        try:
            ignored = unused(table.columns)
            self.unused.update(ignored)
            columns = [name for name in table.columns if name not in ignored]
            for row in table.rows(columns):
                yield table.where, dict(zip(columns, row, strict=True)), None
        finally:
            table.close()

    def _enter(self, example: Example, where: str, keys: list[str]) -> None:
        self.dropped += example.dropped
        self.unused.update(unused(keys))
        labelled = example.label is not None
        self.labels.setdefault(labelled, where)
        if len(self.labels) > 1:
            raise InputError(
                f"{self.labels[False]}: there is no label, and {self.labels[True]} has one. All lines of a "
                "file have a label, or none."
            )
        self.kinds.setdefault(example.kind, where)
        if len(self.kinds) > 1 and self.recipe.kind is None:
            first, second = list(self.kinds)[:2]
            raise InputError(
                f"{where}: 'type' is {second!r}, before it was {first!r}. A batch follows one type: split "
                "the file, or say `kind` in the recipe."
            )
        self.some_scored |= example.scored
        if not example.scored:
            self.without.setdefault("scores", where)
        if not example.negatives:
            self.without.setdefault("negatives", where)
        count = len(example.negatives)
        self.fewest = count if self.fewest < 0 else min(self.fewest, count)
        self.most = max(self.most, count)

    def _measure(self, examples: list[Example]) -> None:
        """Enters how long query, longest positive and longest negative of each are."""
        # By characters the longest is found, and only that one is counted.
        parts = [
            text
            for one in examples
            for text in (
                one.query,
                max(one.positives, key=len),
                max(one.negatives, key=len, default=""),
            )
        ]
        self.sizes.extend(min(int(count), 2**31 - 1) for count in self.measure(parts))

    def _group(self, kind: str) -> int:
        asked = self.recipe.group_size
        group = (_USUAL_GROUP if self.most > 0 else 1) if asked is None else asked
        if kind == "only_1neg":
            group = min(group, 2) if asked is not None else 2
        if group > 1 and "negatives" in self.without:
            raise InputError(
                f"{self.without['negatives']}: there is no negative, and group_size is {group}. Set "
                "group_size: 1 in the recipe, or find negatives with tercet mine."
            )
        if kind == "symmetric_class":
            group = min(group, self.fewest + 1)
        if group == 1 and not self.recipe.in_batch_negatives and True not in self.labels:
            raise InputError(
                f"{self.recipe.path}: a query has one passage, and in_batch_negatives is false: there is "
                "nothing to tell it from. Allow them, or find negatives with tercet mine."
            )
        return group

    def _notes(self, group: int) -> tuple[str, ...]:
        notes = []
        if self.dropped:
            notes.append(
                f"{self.recipe.path}: {self.dropped:,} negatives equal a positive of their query; left out."
            )
        if self.unused:
            names = ", ".join(sorted(self.unused))
            notes.append(f"{self.recipe.path}: keys that nothing is learnt from: {names}.")
        if group > self.fewest + 1:
            notes.append(
                f"{self.recipe.path}: some queries have {self.fewest} negatives, a group takes {group - 1}: "
                "theirs come more than once."
            )
        return tuple(notes)


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line.rstrip())  # an error at the end is one of this line, too
    except json.JSONDecodeError as error:
        raise InputError(f"{where}, column {error.colno}: not JSON ({error.msg}).") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not usable JSON ({error}).") from error
    if not isinstance(values, dict):
        raise InputError(f"{where}: {kind_of(values)}, where each line must be an object.")
    return values


def _stamp(file: _Descriptor) -> tuple[int, int]:
    status = os.fstat(file.number)
    return status.st_size, status.st_mtime_ns
