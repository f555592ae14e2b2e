"""The texts to embed: lengths from a seeded distribution, words from real documents.

Lengths are counted in the tokens of the shape's own tokenizer, special tokens included, so that a workload is
equally long whatever the vocabulary.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CRANFIELD = ROOT.parent / "shared" / "data" / "cranfield" / "corpus.jsonl"
# The first with which 64 and 256 texts come within 2 % of 8,120 and 34,218 tokens, as in the study that the
# goals come from.
SEED = 29
# Half of the texts are shorter than the median; cut to 16..512, the mean is then about 134.
MEDIAN, SIGMA = 97.0, 0.84
SHORTEST, LONGEST = 16, 512

Count = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Workload:
    """One set of texts.

    Attributes:
        name: as in results and on the command line.
        title: as on the page.
        lengths: the tokens that each text is to have.
        max_length: what the engines are told.
    """

    name: str
    title: str
    lengths: tuple[int, ...]
    max_length: int = LONGEST


def mixed_lengths(number: int, *, seed: int = SEED) -> tuple[int, ...]:
    """Lognormal lengths cut to 16..512; the first of them are the same whatever the number."""
    generator = random.Random(seed)
    drawn = (round(math.exp(generator.gauss(math.log(MEDIAN), SIGMA))) for _ in range(number))
    return tuple(min(LONGEST, max(SHORTEST, length)) for length in drawn)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("A", "64 mixed texts", mixed_lengths(64)),
        Workload("B", "256 mixed texts", mixed_lengths(256)),
        Workload("uniform", "64 texts of 128 tokens", (128,) * 64),
        Workload("few", "8 mixed texts", mixed_lengths(8)),
        Workload("query", "one query of 12 tokens", (12,)),
        Workload("document", "one document of 8,192 tokens", (8192,), max_length=8192),
    )
}


def words() -> list[str]:
    """The words of real texts: Cranfield abstracts where they lie beside the checkout, else docstrings."""
    if CRANFIELD.exists():
        rows = map(json.loads, CRANFIELD.read_text(encoding="utf-8").splitlines())
        found = [word for row in rows for word in f"{row['title']} {row['text']}".split()]
    else:
        from make_bge_m3 import docstrings

        found = [word for text in docstrings() for word in text.split()]
    return found


def make_texts(lengths: Sequence[int], source: Sequence[str], count: Count, *, seed: int = SEED) -> list[str]:
    """Texts of consecutive words, each as many as fit its length in tokens.

    Args:
        lengths: most tokens of each text.
        source: the words to take, from a random place on, round and round.
        count: tokens of a text, special tokens included; adding a word never makes it fewer.
    """
    generator = random.Random(seed)
    texts = []
    for length in lengths:
        start = generator.randrange(len(source))
        taken = [source[(start + i) % len(source)] for i in range(length)]
        # The most words that fit, by bisection: a word is at least one token.
        low, high = 1, len(taken)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if count(" ".join(taken[:middle])) <= length else (low, middle - 1)
        texts.append(" ".join(taken[:low]))
    return texts


def corpus() -> list[str]:
    """Whole documents, to measure drift on: Cranfield's title and text, else longer docstrings."""
    if CRANFIELD.exists():
        rows = map(json.loads, CRANFIELD.read_text(encoding="utf-8").splitlines())
        return [f"{row['title']} {row['text']}".strip() or "." for row in rows]
    from make_bge_m3 import docstrings

    return [text for text in docstrings() if len(text.split()) >= 20][:1400]
