"""Hard negatives: texts that a model finds for a query, and that do not answer it."""

from __future__ import annotations

__all__ = ["By", "Mined", "Mining", "Sampling", "mine"]

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tercet.embedder import Embedder
from tercet.errors import InputError
from tercet.evaluation.collection import Collection, Document
from tercet.evaluation.encoding import Encoding
from tercet.evaluation.ranked import Ranking
from tercet.evaluation.retrieval import Search, search
from tercet.scoring import score_pairs
from tercet.scoring.hybrid import Weights
from tercet.storage.aside import Aside, writing
from tercet.training.data.example import Example
from tercet.training.data.source import Source
from tercet.training.pool import Pool
from tercet.training.prompting import prompted
from tercet.training.settings import check_settings, limits

By: TypeAlias = Literal["dense", "sparse", "multivector", "hybrid", "rrf"]
Sampling: TypeAlias = Literal["random", "top"]
Progress: TypeAlias = Callable[[int, int, float | None], None]

_PAIRS = 256  # queries whose positives are scored together
_FIELDS = {"dense": "dense", "sparse": "sparse", "multivector": "multivector", "hybrid": "combined"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mining:
    """Which texts of a ranking become negatives.

    Ranks count from 0 among what is left after the query itself and its positives are taken out. A query's
    bar is the score of that of its positives which the model finds the least alike: what scores close to it,
    or higher, may well be an answer that nobody marked.

    Attributes:
        by: what ranks: an output, the weighted sum of all ("hybrid"), or reciprocal-rank fusion ("rrf").
        first, last: from this rank on, and up to the one before `last`.
        number: of negatives of a query, at most.
        margin: a negative scores at least so much less than the bar; None for no such rule.
        relative_margin: a negative scores at most bar - relative_margin * |bar|; 0.05 keeps what is below 95
        %. max_score, min_score: bounds of a negative's score.
        sampling: "random" draws them from the ranks, "top" takes the first ones.
        seed: of the draws.
        weights: of dense, sparse and multi-vector scores in "hybrid".
    """

    by: By = "dense"
    first: int = limits(10, least=0)
    last: int = limits(210, least=1)
    number: int = limits(15, least=1)
    margin: float | None = limits(None, least=0.0)
    relative_margin: float | None = limits(None, least=0.0, most=2.0)
    max_score: float | None = None
    min_score: float | None = None
    sampling: Sampling = "random"
    seed: int = limits(0, least=0, most=2**63 - 1)
    weights: Weights = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.last <= self.first:
            raise InputError(
                f"ranks {self.first} to {self.last} are none; the last must be larger than the first."
            )
        if self.by == "rrf" and self.filters:
            raise InputError(
                "margins and bounds are of scores, and 'rrf' has ranks alone. Leave them out, or rank by "
                "'hybrid'."
            )

    @property
    def filters(self) -> bool:
        """Whether scores decide, too."""
        return any(
            one is not None for one in (self.margin, self.relative_margin, self.max_score, self.min_score)
        )

    def outputs(self, made: tuple[str, ...]) -> tuple[str, ...]:
        """What the model has to make.

        Args:
            made: what it can make.

        Raises:
            InputError: it cannot.
        """
        wanted = made if self.by in ("hybrid", "rrf") else (self.by,)
        if not set(wanted) <= set(made) or (self.by in ("hybrid", "rrf") and len(made) < 2):
            raise InputError(f"The model makes {', '.join(made)}; it cannot rank by {self.by!r}.")
        return wanted

    def chosen(
        self, ranked: NDArray[np.int64], scores: NDArray[np.float32], bar: float | None, row: int
    ) -> tuple[list[int], int]:
        """The numbers of a query's negatives, best first; and how many the bounds took out.

        Args:
            ranked, scores: of what it found, best first, without itself and its positives.
            bar: see above; None where no margin asks for it.
            row: number of the query, which the draw depends on.
        """
        ranked, scores = ranked[self.first : self.last], scores[self.first : self.last]
        kept = np.ones(len(ranked), dtype=bool)
        if bar is not None and self.margin is not None:
            kept &= scores <= bar - self.margin
        if bar is not None and self.relative_margin is not None:
            kept &= scores <= bar - self.relative_margin * abs(bar)
        if self.max_score is not None:
            kept &= scores <= self.max_score
        if self.min_score is not None:
            kept &= scores >= self.min_score
        places = np.flatnonzero(kept)
        if self.sampling == "random" and len(places) > self.number:
            random = np.random.default_rng([self.seed, row])
            places = np.sort(random.choice(places, self.number, replace=False))
        return ranked[places[: self.number]].tolist(), len(ranked) - int(kept.sum())


@dataclass(frozen=True, slots=True)
class Mined:
    """What mining found.

    Attributes:
        queries: that were written.
        negatives: that were written.
        short: queries with fewer negatives than asked for.
        left_out: queries for which no negative was left; they are not written.
        filtered: texts in the ranks that scores took out.
        pool: texts that were searched.
    """

    queries: int
    negatives: int
    short: int
    left_out: int
    filtered: int
    pool: int


def mine(
    model: Embedder,
    source: Source,
    output: str | Path,
    how: Mining | None = None,
    *,
    pool: Iterable[str] | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    max_length: int | None = None,
    progress: Progress | None = None,
) -> Mined:
    """What was found; `output` has a line a query, in FlagEmbedding's form, when all of them are there.

    The same model, files, options and seed write the same bytes.

    Args:
        model: ranks the texts.
        source: queries and their positives; its own negatives are not kept.
        output: a .jsonl file.
        how: which texts of a ranking become negatives.
        pool: texts to find them among; all passages of the source by default.
        query_prompt, document_prompt: put before each; None for the model's own. A line's own outranks it.
        max_length: most tokens of a text.
        progress: called with (texts, tokens, part done) as texts are embedded.

    Raises:
        InputError: the model cannot rank so, a pool without texts, or a file that changed.
        OutputError: the output cannot be written; nothing half-written is left.
    """
    how = how or Mining()
    encoding = Encoding(how.outputs(model.outputs), "", document_prompt, max_length)
    read = prompted(model.checkpoint, query_prompt)
    texts = Pool(_passages(source) if pool is None else pool)
    if not len(texts):
        raise InputError("The pool has no texts to find negatives among.")
    queries = {str(row): read(source[row]) for row in range(len(source))}
    most = max(len(source[row].positives) for row in range(len(source)))
    collection = Collection(
        name=source.recipe.path,
        layout="pool",
        split="",
        documents=lambda: (Document(str(n), text, f"text {n} of the pool") for n, text in enumerate(texts)),
        num_documents=len(texts),
        queries=queries,
        qrels={},
        sha256="",
        notes=(),
    )
    # Of what is found, the query and its positives are no negatives: so much more is looked for.
    depth = min(how.last + most + 1, len(texts))
    weights = how.weights
    found = search(model, collection, encoding, Search(depth=depth, weights=weights), progress=progress)
    system = how.by if len(encoding.outputs) > 1 else encoding.outputs[0]
    margins = how.margin is not None or how.relative_margin is not None
    bars = _bars(model, source, encoding, how, queries) if margins else None
    counts = {"queries": 0, "negatives": 0, "short": 0, "left_out": 0, "filtered": 0}
    sink = Aside(Path(output))
    try:
        for row in range(len(source)):
            example = source[row]
            ranked, scores = _others(found.runs[system][str(row)], example, texts)
            chosen, out = how.chosen(ranked, scores, None if bars is None else float(bars[row]), row)
            counts["filtered"] += out
            counts["short"] += len(chosen) < how.number
            counts["left_out"] += not chosen
            if chosen:
                counts["queries"] += 1
                counts["negatives"] += len(chosen)
                with writing(sink.path):
                    sink.file.write(_line(example, [texts[number] for number in chosen]))
        sink.commit()
    finally:
        sink.discard()
    return Mined(**counts, pool=len(texts))


def _passages(source: Source) -> Iterable[str]:
    for row in range(len(source)):
        example = source[row]
        yield from example.positives
        yield from example.negatives


def _others(ranking: Ranking, example: Example, pool: Pool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Numbers and scores of what was found, without the query itself and its positives."""
    numbers = np.array([int(name) for name in ranking.ids], dtype=np.int64)
    own = [pool.number(text) for text in (example.query, *example.positives)]
    kept = ~np.isin(numbers, [number for number in own if number is not None])
    return numbers[kept], ranking.scores[kept]


def _bars(
    model: Embedder, source: Source, encoding: Encoding, how: Mining, queries: dict[str, str]
) -> NDArray[np.float32]:
    """(queries,) the lowest score of each query's positives."""
    bars = np.empty(len(source), dtype=np.float32)
    rows = iter(range(len(source)))
    score = partial(score_pairs, weights=how.weights if len(encoding.outputs) > 1 else (1.0, 1.0, 1.0))
    while chunk := list(islice(rows, _PAIRS)):
        positives = [source[row].positives for row in chunk]
        embedded = encoding.queries(model, [queries[str(row)] for row in chunk])
        again = [place for place, texts in enumerate(positives) for _ in texts]
        passages = encoding.documents(model, [text for texts in positives for text in texts])
        scores = getattr(score(embedded[again], passages), _FIELDS[how.by]).float().numpy()
        starts = np.cumsum([0, *map(len, positives)])[:-1]
        bars[chunk] = np.minimum.reduceat(scores, starts)
    return bars


def _line(example: Example, negatives: list[str]) -> bytes:
    line: dict[str, object] = {"query": example.query, "pos": list(example.positives), "neg": negatives}
    if example.prompt is not None:
        line["prompt"] = example.prompt
    if example.kind is not None:
        line["type"] = example.kind
    return (json.dumps(line, ensure_ascii=False) + "\n").encode()
