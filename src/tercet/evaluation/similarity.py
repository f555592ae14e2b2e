"""Semantic similarity: how well scores of pairs of texts agree with those that people gave."""

from __future__ import annotations

__all__ = ["GoldPair", "Similarity", "is_similarity", "read_pairs", "similarity"]

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tercet.embedder import Embedder
from tercet.errors import InputError
from tercet.evaluation.correlation import pearson, spearman
from tercet.evaluation.encoding import Encoding
from tercet.evaluation.records import read_fields
from tercet.scoring import score_pairs
from tercet.scoring.hybrid import Weights
from tercet.scoring.late import Reduction
from tercet.storage.lines import Lines
from tercet.storage.tables import open_table

_CHUNK_PAIRS = 512
_FIRST = ("sentence1", "text1", "sentence_a", "text_a")
_SECOND = ("sentence2", "text2", "sentence_b", "text_b")
_GOLD = ("score", "label", "similarity", "gold")
# The STS benchmark as it is distributed: genre, file, year, id, score, two sentences, and sometimes sources.
_BENCHMARK_SCORE, _BENCHMARK_TEXTS = 4, (5, 6)
_INPUT, _GS = "STS.input.", "STS.gs."


class GoldPair(NamedTuple):
    """Two texts, and how similar people find them, on any scale."""

    first: str
    second: str
    gold: float


@dataclass(frozen=True, slots=True)
class Similarity:
    """Correlations of one way to score with the gold scores; None where all scores are equal."""

    spearman: float | None
    pearson: float | None


def read_pairs(path: Path) -> tuple[list[GoldPair], list[Path]]:
    """The pairs of a file, and the files that were read.

    It may be a table (.jsonl, .csv, .tsv, .parquet, also .gz) with sentence1, sentence2 and score (or text1,
    text2, label); the STS benchmark's sts-test.csv, which has no header; or SemEval's STS.input.NAME.txt with
    STS.gs.NAME.txt beside it, of which lines without a score are left out, as there.

    Raises:
        InputError: naming the line: not such a file, or a score that is no number; or fewer than two pairs.
    """
    if path.name.startswith(_INPUT):
        gold = path.with_name(_GS + path.name.removeprefix(_INPUT))
        pairs, files = list(_semeval(path, gold)), [path, gold]
    elif _is_benchmark(path):
        pairs, files = list(_benchmark(path)), [path]
    else:
        pairs, files = list(_table(path)), [path]
    if len(pairs) < 2 or len({pair.gold for pair in pairs}) < 2:
        raise InputError(
            f"{path}: {len(pairs)} pairs, with {len({pair.gold for pair in pairs})} different scores: "
            "nothing can correlate with them. Give pairs with at least two different scores."
        )
    return pairs, files


def is_similarity(path: Path) -> bool:
    """Whether a file holds pairs with gold scores."""
    if not path.is_file():
        return False
    if path.name.startswith(_INPUT) or _is_benchmark(path):
        return True
    if not path.name.removesuffix(".gz").endswith((".jsonl", ".csv", ".tsv", ".parquet")):
        return False
    table = open_table(str(path))
    try:
        return all(any(key in table.columns for key in keys) for keys in (_FIRST, _SECOND, _GOLD))
    finally:
        table.close()


def similarity(
    model: Embedder,
    pairs: Iterable[GoldPair],
    encoding: Encoding,
    *,
    weights: Weights = (1.0, 1.0, 1.0),
    reduction: Reduction = "mean",
    progress: Callable[[int, int, float | None], None] | None = None,
) -> dict[str, Similarity]:
    """Correlations with the gold scores by each way to score.

    Dense vectors are compared by cosine and dot product, and by Euclidean and Manhattan distance (negative,
    so that more is more alike); sparse and multi-vectors by their scores, and all by their weighted sum.
    """
    gold: list[float] = []
    columns: dict[str, list[Tensor]] = {}
    waiting = iter(pairs)
    while chunk := list(islice(waiting, _CHUNK_PAIRS)):
        texts = list(dict.fromkeys(text for pair in chunk for text in (pair.first, pair.second)))
        places = {text: place for place, text in enumerate(texts)}
        embedded = encoding.alike(model, texts)
        first = embedded[[places[pair.first] for pair in chunk]]
        second = embedded[[places[pair.second] for pair in chunk]]
        scores = score_pairs(first, second, weights=weights, reduction=reduction)
        here = _distances(first.dense, second.dense)
        here |= {
            name: part for name in ("sparse", "multivector") if (part := getattr(scores, name)) is not None
        }
        if len(encoding.outputs) > 1:
            here["hybrid"] = scores.combined
        for name, part in here.items():
            columns.setdefault(name, []).append(part)
        gold += [pair.gold for pair in chunk]
        if progress is not None:
            progress(len(texts), int(embedded.num_tokens.sum()), None)
    said = np.asarray(gold)
    found = {name: torch.cat(parts).double().numpy() for name, parts in columns.items()}
    return {name: Similarity(spearman(values, said), pearson(values, said)) for name, values in found.items()}


def _distances(first: Tensor | None, second: Tensor | None) -> dict[str, Tensor]:
    if first is None or second is None:
        return {}
    left, right = first.double(), second.double()
    return {
        "cosine": torch.nn.functional.cosine_similarity(left, right),
        "dot": (left * right).sum(dim=1),
        "euclidean": -torch.linalg.vector_norm(left - right, dim=1),
        "manhattan": -torch.linalg.vector_norm(left - right, ord=1, dim=1),
    }


def _table(path: Path) -> Iterator[GoldPair]:
    table = open_table(str(path))
    try:
        names = []
        for what, keys in (("first text", _FIRST), ("second text", _SECOND), ("score", _GOLD)):
            name = next((key for key in keys if key in table.columns), None)
            if name is None:
                raise InputError(
                    f"{path}: no column for the {what}: name it {' or '.join(keys)}. Its columns: "
                    f"{', '.join(table.columns) or 'none'}."
                )
            names.append(name)
        for first, second, score in table.rows(names):
            if not isinstance(first, str) or not isinstance(second, str):
                raise InputError(f"{table.where}: {names[0]!r} and {names[1]!r} must both be strings.")
            yield GoldPair(first, second, _score(score, table.where))
    finally:
        table.close()


def _is_benchmark(path: Path) -> bool:
    """Whether a file is the STS benchmark's: tabs, no header, a number in the fifth of seven columns."""
    if not path.name.removesuffix(".gz").endswith((".csv", ".tsv", ".txt")):
        return False
    first = next(read_fields(path), None)
    if first is None or len(first[1]) <= max(_BENCHMARK_TEXTS):
        return False
    return _is_number(first[1][_BENCHMARK_SCORE])


def _benchmark(path: Path) -> Iterator[GoldPair]:
    for where, fields in read_fields(path):
        if len(fields) <= max(_BENCHMARK_TEXTS):
            raise InputError(f"{where}: {len(fields)} columns, where the STS benchmark has at least seven.")
        first, second = (fields[place] for place in _BENCHMARK_TEXTS)
        yield GoldPair(first, second, _score(fields[_BENCHMARK_SCORE], where))


def _semeval(path: Path, gold: Path) -> Iterator[GoldPair]:
    texts, scores = _every_line(path), _every_line(gold)
    if len(texts) != len(scores):
        raise InputError(
            f"{path} has {len(texts)} lines and {gold} {len(scores)}; they belong together line by line."
        )
    for number, (line, score) in enumerate(zip(texts, scores, strict=True), start=1):
        fields = line.split("\t")
        if len(fields) < 2:
            raise InputError(f"{path}, line {number}: a pair is two texts with a tab between.")
        if score.strip():
            yield GoldPair(fields[0], fields[1], _score(score.strip(), f"{gold}, line {number}"))


def _every_line(path: Path) -> list[str]:
    """All lines without their ends; blank ones mean something here: a pair without a score."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; STS.input.NAME.txt and STS.gs.NAME.txt belong together.")
    lines = Lines(str(path))
    try:
        return [line.rstrip("\r\n") for line in lines]
    finally:
        lines.close()


def _score(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str) or not _is_number(value):
        raise InputError(f"{where}: the score is {value!r}; it must be a finite number.")
    return float(value)


def _is_number(value: float | str) -> bool:
    try:
        return bool(np.isfinite(float(value)))
    except ValueError:
        return False
