"""The texts of one batch, with everything that a loss has to know about them."""

from __future__ import annotations

__all__ = ["Prompts", "TrainingBatch", "make_batch"]

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from torch import Tensor

from tercet.errors import InputError
from tercet.training.data.example import Example
from tercet.training.data.order import Chosen
from tercet.training.data.source import Source

_QUERY_PROMPT_EVERYWHERE = ("symmetric_sts", "symmetric_clustering")


@dataclass(frozen=True, slots=True)
class Prompts:
    """What the model puts before texts where neither a line nor the recipe says it."""

    query: str = ""
    document: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingBatch:
    """Queries and their passages.

    Passages stand in groups, one a query, its positive first: that of query i is passage i * group_size.

    Attributes:
        queries, documents: the texts, without prompts.
        query_prompts, document_prompts: what stands before each.
        group_size: passages of each query.
        allowed: (queries, documents) bool, which passages a query is told from: its own group; of the
            others', where they count, those that equal neither a positive of its nor a passage that it has.
        teacher: (queries, group_size) float32 scores of each query's own passages, or None.
        labels: (queries,) float32, how alike each query and its positive are, or None.
        source: the file's name, for messages.
    """

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    query_prompts: tuple[str, ...]
    document_prompts: tuple[str, ...]
    group_size: int
    allowed: Tensor
    teacher: Tensor | None
    labels: Tensor | None
    source: str

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def targets(self) -> Tensor:
        """(queries,) int64, the column of each query's positive."""
        return torch.arange(len(self.queries)) * self.group_size


def make_batch(sources: Sequence[Source], chosen: Chosen, prompts: Prompts | None = None) -> TrainingBatch:
    """The batch of chosen examples; the same choice always makes the same batch.

    Of each example one positive is drawn, and as many negatives as the group takes; where there are fewer,
    all of them, some again. A passage that equals one of the query's positives is never its negative: it is
    masked.

    Raises:
        InputError: a file changed after it was checked.
    """
    prompts = prompts or Prompts()
    random = np.random.default_rng([*chosen.seeds, 1])
    first = sources[int(chosen.sources[0])]
    for number in np.unique(chosen.sources):
        sources[number].check_unchanged()
    group = first.group_size
    examples: list[Example] = []
    documents: list[str] = []
    scores: list[float] = []
    query_prompts: list[str] = []
    document_prompts: list[str] = []
    for number, row in zip(chosen.sources.tolist(), chosen.rows.tolist(), strict=True):
        source = sources[number]
        example = source[row]
        texts, own = _drawn(example, group, random)
        before_query, before_document = _prompts(source, example, prompts)
        examples.append(example)
        documents += texts
        scores += own
        query_prompts.append(before_query)
        document_prompts += [before_document] * group
    return TrainingBatch(
        tuple(example.query for example in examples),
        tuple(documents),
        tuple(query_prompts),
        tuple(document_prompts),
        group,
        _allowed(examples, documents, group, in_batch=first.recipe.in_batch_negatives),
        torch.tensor(scores).view(-1, group) if first.scored else None,
        torch.tensor([example.label for example in examples]) if first.labelled else None,
        first.recipe.path,
    )


def _drawn(example: Example, group: int, random: np.random.Generator) -> tuple[list[str], list[float]]:
    """A positive and the negatives of a group; and a teacher's scores of them, where there are such."""
    positive = int(random.integers(len(example.positives)))
    texts = [example.positives[positive]]
    scores = [] if example.positive_scores is None else [example.positive_scores[positive]]
    if group > 1:
        if not example.negatives:
            raise InputError(
                f"{example.query[:40]!r} has no negative any more; its file changed. Start again."
            )
        times = ceil((group - 1) / len(example.negatives))
        places = random.permutation(len(example.negatives) * times)[: group - 1] % len(example.negatives)
        if times > 1:  # all of them before any comes again
            places = np.resize(random.permutation(len(example.negatives)), group - 1)
        texts += [example.negatives[place] for place in places]
        if example.negative_scores is not None:
            scores += [example.negative_scores[place] for place in places]
    return texts, scores


def _prompts(source: Source, example: Example, prompts: Prompts) -> tuple[str, str]:
    recipe = source.recipe
    query = prompts.query if recipe.query_prompt is None else recipe.query_prompt
    query = query if example.prompt is None else example.prompt
    if source.kind in _QUERY_PROMPT_EVERYWHERE:
        return query, query
    return query, prompts.document if recipe.document_prompt is None else recipe.document_prompt


def _allowed(examples: list[Example], documents: list[str], group: int, *, in_batch: bool) -> Tensor:
    """(queries, documents) bool, see `TrainingBatch.allowed`."""
    numbers: dict[str, int] = {}
    same = np.array([numbers.setdefault(text, len(numbers)) for text in documents])
    # The first place of each text stands for all the others.
    firsts = np.zeros(len(documents), dtype=bool)
    firsts[np.unique(same, return_index=True)[1]] = True
    allowed = np.zeros((len(examples), len(documents)), dtype=bool)
    for query, example in enumerate(examples):
        own = slice(query * group, (query + 1) * group)
        row = allowed[query]
        if in_batch:
            row |= firsts
            row[np.isin(same, same[own])] = False
        positives = [numbers[text] for text in example.positives if text in numbers]
        row[np.isin(same, positives)] = False
        row[own] = True
    return torch.from_numpy(allowed)
