"""A teacher's scores of every passage of every query, for a student to learn from."""

from __future__ import annotations

__all__ = ["Taught", "Teacher", "distill_scores", "embedder_teacher"]

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from tercet.embedder import Embedder
from tercet.errors import InputError
from tercet.scoring import score_pairs
from tercet.scoring.hybrid import Weights
from tercet.storage.aside import Aside, writing
from tercet.training.data.example import Example
from tercet.training.data.source import Source

# (query, passage) of several examples -> (pairs,) scores; the prompt of each query is its example's business.
Teacher: TypeAlias = Callable[[Sequence[tuple[str, str]]], Tensor]

_PAIRS = 512  # scored together, and held in memory
_FIELDS = {"dense": "dense", "sparse": "sparse", "multivector": "multivector", "hybrid": "combined"}


@dataclass(frozen=True, slots=True)
class Taught:
    """How much was scored.

    Attributes:
        queries, pairs: that were written.
    """

    queries: int
    pairs: int


def distill_scores(
    teacher: Teacher,
    source: Source,
    output: str | Path,
    *,
    query: Callable[[Example], str] | None = None,
    progress: Callable[[int, int, float | None], None] | None = None,
) -> Taught:
    """How much was scored; `output` has every line of the source with pos_scores and neg_scores.

    Args:
        teacher: gives a score a pair: `Reranker.score`, or what `embedder_teacher` makes.
        source: queries and their passages.
        output: a .jsonl file in FlagEmbedding's form.
        query: what the teacher reads of an example; by default its prompt and its query.
        progress: called with (pairs, 0, part done).

    Raises:
        InputError: a file that changed.
        NonFiniteError: a score that is not finite.
        OutputError: the output cannot be written; nothing half-written is left.
    """
    read = query or (lambda example: (example.prompt or "") + example.query)
    pairs = 0
    sink = Aside(Path(output))
    try:
        waiting: list[Example] = []
        for row in range(len(source)):
            waiting.append(source[row])
            count = sum(len(one.positives) + len(one.negatives) for one in waiting)
            if count >= _PAIRS or row == len(source) - 1:
                lines = _lines(teacher, waiting, read)
                with writing(sink.path):
                    sink.file.write(lines)
                pairs, waiting = pairs + count, []
                if progress is not None:
                    progress(count, 0, (row + 1) / len(source))
        sink.commit()
    finally:
        sink.discard()
    return Taught(len(source), pairs)


def embedder_teacher(
    model: Embedder,
    by: str = "hybrid",
    *,
    weights: Weights = (1.0, 1.0, 1.0),
    document_prompt: str | None = None,
    max_length: int | None = None,
) -> Teacher:
    """A teacher that compares a model's vectors.

    Args:
        model: makes them; queries come with their prompt already.
        by: an output, or "hybrid", the weighted sum of all.
        weights: of dense, sparse and multi-vector scores in "hybrid".
        document_prompt: put before each passage; None for the model's own.
        max_length: most tokens of a text.

    Raises:
        InputError: the model does not make that output.
    """
    outputs = model.outputs if by == "hybrid" else (by,)
    if not set(outputs) <= set(model.outputs):
        raise InputError(f"The model makes {', '.join(model.outputs)}; it cannot score by {by!r}.")

    def score(pairs: Sequence[tuple[str, str]]) -> Tensor:
        numbers: dict[str, int] = {}
        places = [numbers.setdefault(query, len(numbers)) for query, _ in pairs]
        queries = model.encode_query(list(numbers), outputs=outputs, prompt="", max_length=max_length)
        passages = model.encode_document(
            [passage for _, passage in pairs], outputs=outputs, prompt=document_prompt, max_length=max_length
        )
        shares = weights if len(outputs) > 1 else (1.0, 1.0, 1.0)
        found = score_pairs(queries[places], passages, weights=shares)
        scores: Tensor = getattr(found, _FIELDS[by])
        return scores.float()

    return score


def _lines(teacher: Teacher, examples: list[Example], read: Callable[[Example], str]) -> bytes:
    asked = [(read(one), text) for one in examples for text in (*one.positives, *one.negatives)]
    scores = iter(teacher(asked).tolist())
    lines = []
    for one in examples:
        line: dict[str, object] = {
            "query": one.query,
            "pos": list(one.positives),
            "neg": list(one.negatives),
            # float32 has nine digits at most
            "pos_scores": [float(f"{next(scores):.9g}") for _ in one.positives],
            "neg_scores": [float(f"{next(scores):.9g}") for _ in one.negatives],
        }
        if one.prompt is not None:
            line["prompt"] = one.prompt
        if one.kind is not None:
            line["type"] = one.kind
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines).encode()
