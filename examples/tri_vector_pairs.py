"""Pairs of texts that any machine can make: what a text is called, or a sentence of it, and the rest of it.

The texts are the docstrings of Python's standard library and, where apt knows packages, their descriptions.

python examples/tri_vector_pairs.py -o build/tri_vector_pairs     for `tercet train examples/tri_vector.yaml`

writes learn.jsonl, and the pairs that are held out as a collection that `tercet evaluate` reads: held_out/.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from stdlib_docs import collect

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z(\"'])")
# A sentence that more texts than this have says nothing of any of them.
_SHARED = 2
_QUERY_WORDS = range(5, 36)
_PASSAGE_WORDS = 12


# Around three queries of five: a head has to learn that the words of a question are not what is asked for.
_QUESTIONS = (
    "what is {}?",
    "what is known about {}?",
    "how does {} work?",
    "how can one get {}?",
    "is there anything on {}?",
    "which of these are about {}?",
    "where is {} described?",
    "can someone tell me about {}?",
    "what has been done on {} so far?",
    "why would one use {}?",
    "what are the uses of {}?",
    "how are {} and the like made?",
    "does anything deal with {}?",
    "what do we have for {}?",
    "have there been any {}?",
    "to what extent is it possible to do {}?",
)
_ASKED = 0.6


class Source(NamedTuple):
    """A text before it is parted: its title, its sentences, and where it is from."""

    title: str
    sentences: tuple[str, ...]
    origin: str


class Pair(NamedTuple):
    """What one would search for, and the text to be found."""

    query: str
    passage: str
    origin: str


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder for the files")
    parser.add_argument("--pairs", type=int, default=15_000)
    parser.add_argument(
        "--held-out", type=int, default=1500, help="of the pairs, of which nothing is learned"
    )
    parser.add_argument(
        "--asked", type=int, default=300, help="of those held out, whose queries search the rest"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--apt", action="append", default=[], metavar="OPTION", help="-o OPTION of apt-cache")
    options = parser.parse_args(argv)
    texts = sources([part for one in options.apt for part in ("-o", one)])
    pairs = long_pairs(texts, options.pairs, seed=options.seed)
    if len(pairs) < 4:
        print(
            f"tri_vector_pairs: {len(pairs)} pairs are too few to learn from. Ask for more --pairs, or let "
            "apt know packages: apt-get -o Acquire::Languages=en update.",
            file=sys.stderr,
        )
        return 2
    # A machine with few texts holds out fewer.
    held_out = max(1, min(options.held_out, len(pairs) // 4))
    try:
        write_files(options.output, pairs, held_out, max(1, min(options.asked, held_out)))
    except OSError as error:
        print(f"tri_vector_pairs: {error}. Name another folder with -o.", file=sys.stderr)
        return 2
    print(f"{len(pairs) - held_out:,} pairs to learn from and {held_out:,} held out, in {options.output}.")
    return 0


def long_pairs(
    texts: Iterable[Source], count: int, *, shortest: int = 36, seed: int = 1, question_seed: int = 3
) -> list[Pair]:
    """The first `count` pairs whose passages have `shortest` words or more, most queries as questions."""
    long = (pair for pair in make_pairs(texts, seed) if len(pair.passage.split()) >= shortest)
    return as_questions(islice(long, count), question_seed)


def write_files(output: Path, pairs: Sequence[Pair], held_out: int, asked: int) -> None:
    """learn.jsonl of all pairs but the last ones, and of these a collection in BEIR's layout."""
    learned, kept = pairs[: len(pairs) - held_out], pairs[len(pairs) - held_out :]
    write_lines(output / "learn.jsonl", ({"query": pair.query, "pos": [pair.passage]} for pair in learned))
    folder = output / "held_out"
    corpus = ({"_id": f"d{row}", "title": "", "text": pair.passage} for row, pair in enumerate(kept))
    write_lines(folder / "corpus.jsonl", corpus)
    queries = ({"_id": f"q{row}", "text": pair.query} for row, pair in enumerate(kept[:asked]))
    write_lines(folder / "queries.jsonl", queries)
    judged = "".join(f"q{row}\td{row}\t1\n" for row in range(asked))
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}", encoding="utf-8")


def write_lines(path: Path, rows: Iterable[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def sources(apt_options: Iterable[str] = ()) -> list[Source]:
    """All texts of this machine, in a fixed order; sentences that are in many of them are left out."""
    found = list(dict.fromkeys([*docstrings(), *packages(apt_options)]))
    counts = Counter(sentence for source in found for sentence in set(source.sentences))
    seen: set[str] = set()
    kept = []
    for title, sentences, origin in found:
        own = tuple(s for s in sentences if counts[s] <= _SHARED and s not in seen)
        seen.update(own)
        if sum(len(s.split()) for s in own) >= _PASSAGE_WORDS:
            kept.append(Source(title, own, origin))
    return kept


def docstrings() -> Iterator[Source]:
    """The standard library: the words of a name, and its docstring."""
    for doc in collect():
        _, _, text = doc.text.partition("\n\n")
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", doc.id.replace("_", " ").replace(".", " "))
        yield Source(words, tuple(split(text)), "stdlib")


def packages(options: Iterable[str] = ()) -> Iterator[Source]:
    """Debian packages: the synopsis and the long description; nothing where there is no apt-cache."""
    command = ["apt-cache", "search", "--full", "--names-only", ".", "-o", "Acquire::Languages=en", *options]
    try:
        printed = subprocess.run(command, capture_output=True, check=True).stdout.decode(errors="replace")
    except (OSError, subprocess.CalledProcessError):
        return
    for record in printed.split("\n\n"):
        found = re.search(r"^Description-en: (.*)\n((?: .*\n)+)", record + "\n", re.MULTILINE)
        if found:
            text = re.sub(r"^ \.$", "", found[2], flags=re.MULTILINE)
            yield Source(found[1], tuple(split(text)), "debian")


def split(text: str) -> Iterator[str]:
    """The sentences of a text, its paragraphs and list items apart."""
    for paragraph in re.split(r"\n\s*\n|\n\s*[*+-] ", text):
        for sentence in _SENTENCE.split(" ".join(paragraph.split())):
            if re.search(r"[A-Za-z]{3}", sentence):
                yield sentence


def make_pairs(texts: Iterable[Source], seed: int) -> list[Pair]:
    """One pair a text: its title asks for the rest of it, or a sentence for the title and what is left."""
    draw = random.Random(seed)
    made = []
    for title, sentences, origin in texts:
        fit = [place for place, s in enumerate(sentences) if len(s.split()) in _QUERY_WORDS]
        if fit and len(sentences) > 1 and draw.random() < 0.5:
            asked = draw.choice(fit)
            rest = " ".join(s for place, s in enumerate(sentences) if place != asked)
            made.append(Pair(sentences[asked], f"{title}. {rest}", origin))
        else:
            made.append(Pair(title, " ".join(sentences), origin))
    draw.shuffle(made)
    return made


def as_questions(pairs: Iterable[Pair], seed: int) -> list[Pair]:
    """The pairs, most of their queries as questions; these need not be good English."""
    draw = random.Random(seed)
    made = []
    for pair in pairs:
        query = pair.query.rstrip(" .")
        if draw.random() < _ASKED:
            query = draw.choice(_QUESTIONS).replace("{}", query)
        made.append(pair._replace(query=query))
    return made


if __name__ == "__main__":
    sys.exit(main())
