"""The user's texts as statistics are gathered on them: what the model reads, and what it chooses among."""

from __future__ import annotations

__all__ = ["Choice", "Prompted", "StatisticsTexts", "halves", "read_statistics_texts"]

import json
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal, NamedTuple

from tercet.checkpoint.hashing import hash_file
from tercet.checkpoint.layout import Checkpoint
from tercet.embedder.options import Asked, saved_prompt
from tercet.evaluation.auditing.texts import open_texts
from tercet.storage.lines import Lines
from tercet.training.data import open_source
from tercet.training.recipe import DataRecipe

# Keys that say that a line has a query, and what answers it.
_QUERIES = ("query", "anchor", "question", "sentence1")
_TABLES = (".csv", ".tsv", ".parquet")
# Most negatives of a query that are among its passages, as for LM-Cocktail.
_NEGATIVES = 7
_SPACE = re.compile(r"(?<=\S)\s")


class Prompted(NamedTuple):
    """A text, and what the model puts before it."""

    prompt: str
    text: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A query and passages that it may mean."""

    query: Prompted
    passages: tuple[Prompted, ...]


@dataclass(frozen=True, slots=True)
class StatisticsTexts:
    """What statistics are gathered on.

    Attributes:
        read: every text that the model reads.
        choices: queries and their passages.
        pairs: whether the file said which is which; else they are halves of texts.
        too_short: texts that have no two halves.
        sha256: of the file or the collection.
    """

    read: tuple[Prompted, ...]
    choices: tuple[Choice, ...]
    pairs: bool
    too_short: int
    sha256: str


def read_statistics_texts(path: str | Path, checkpoint: Checkpoint, *, most: int) -> StatisticsTexts:
    """The texts, or the pairs, of a file; where there are more than `most`, so many evenly spread.

    Args:
        path: .jsonl lines with query, pos and neg or the like, or .csv and .parquet with such columns, are
            pairs; .jsonl with text, .txt and collections are texts.
        checkpoint: whose prompts stand before queries and documents; a line's own goes before.
        most: texts, or queries.

    Raises:
        InputError: the file cannot be read, or says nothing that could be used.
    """
    path = Path(path)
    asks, answers = _prompt(checkpoint, "query"), _prompt(checkpoint, "document")
    made: list[Choice] = []
    if path.is_dir() or not _has_pairs(path):
        found = open_texts(path)
        texts = [one.text for one in found.at(_spread(found.num_documents, most)).values()]
        texts = [text for text in texts if text.strip()]
        for text in texts:
            if (cut := halves(text)) is not None:
                made.append(Choice(Prompted(asks, cut[0]), (Prompted(answers, cut[1]),)))
        read = tuple(Prompted(answers, text) for text in texts)
        return StatisticsTexts(read, tuple(made), False, len(texts) - len(made), found.sha256)
    with closing(open_source(DataRecipe(path=str(path), group_size=1))) as source:
        for row in _spread(len(source), most):
            one = source[row]
            query = Prompted(asks if one.prompt is None else one.prompt, one.query)
            passages = (one.positives[0], *one.negatives[:_NEGATIVES])
            made.append(Choice(query, tuple(Prompted(answers, text) for text in passages)))
    both = tuple(text for one in made for text in (one.query, *one.passages))
    return StatisticsTexts(both, tuple(made), True, 0, hash_file(path))


def halves(text: str) -> tuple[str, str] | None:
    """The text cut in two: at the white space nearest to its middle, or there, where none is near.

    None of a text with fewer than two characters.
    """
    text = text.strip()
    middle, near = len(text) // 2, len(text) // 4
    if not middle:
        return None
    spaces = (found.start() for found in _SPACE.finditer(text, middle - near, middle + near + 1))
    cut = min(spaces, key=lambda place: abs(place - middle), default=middle)
    return text[:cut].rstrip(), text[cut:].lstrip()


def _spread(count: int, most: int) -> Sequence[int]:
    if count <= most:
        return range(count)
    return [place * count // most for place in range(most)]


def _prompt(checkpoint: Checkpoint, role: Literal["query", "document"]) -> str:
    name = saved_prompt(Asked(), role, checkpoint).prompt_name or checkpoint.default_prompt_name
    return "" if name is None else checkpoint.prompts[name]


def _has_pairs(path: Path) -> bool:
    """Whether the first line says what is a query."""
    name = path.name.removesuffix(".gz")
    if PurePath(name).suffix.lower() in _TABLES:
        return True
    if not name.endswith((".jsonl", ".ndjson")) or not path.is_file():
        return False
    lines = Lines(str(path))
    try:
        first = json.loads(next((line for line in lines if not line.isspace()), "{}"))
    except (ValueError, RecursionError):
        return False  # said, with its place, by what reads it as texts
    finally:
        lines.close()
    return isinstance(first, dict) and any(key in first for key in _QUERIES)
