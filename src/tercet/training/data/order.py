"""Which examples stand together in which batch: decided by the seed alone, and taken up again anywhere."""

from __future__ import annotations

__all__ = ["Chosen", "Order"]

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercet.errors import InputError
from tercet.training.data.source import Source
from tercet.training.recipe import BatchRecipe

# Examples are sorted by length among so many batches' worth, so that an epoch still is in a random order.
_WINDOW_BATCHES = 64


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """The examples of one batch, by number; what is drawn of each is decided, too.

    Attributes:
        sources: (queries,) which of the sources each example is of.
        rows: (queries,) which of its examples.
        seeds: the seed, the epoch and the number of the batch in it.
    """

    sources: NDArray[np.int64]
    rows: NDArray[np.int64]
    seeds: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """The batches of a run.

    An epoch is shuffled by (seed, epoch), so that any of its batches is found without going through those
    before it: a run that goes on at a batch gets what an unbroken one would.

    Attributes:
        sources: the files; `weight` of their recipes says how often their examples come.
        batch: how batches are made.
        seed: of everything that is random.
        rank, processes: which share of the batches; every process gets as many.
    """

    sources: Sequence[Source]
    batch: BatchRecipe
    seed: int = 0
    rank: int = 0
    processes: int = 1

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Chosen]:
        """The batches of one epoch, from the one with the number `start`.

        Raises:
            InputError: there are too few examples for a batch on every process.
        """
        batches, alone = self._batches(epoch)
        usable = len(batches) // self.processes
        if not usable and not batches:
            raise InputError(
                f"No batch can be made: each of the {alone:,} queries would be alone in its batch with one "
                "passage, which leaves it nothing to be told from. Give more examples, raise batch.texts, "
                "batch.tokens or group_size."
            )
        if not usable:
            raise InputError(
                f"There are {len(batches)} batches for {self.processes} processes. Make batches smaller, or "
                "take fewer processes."
            )
        for number in range(start, usable):
            place = number * self.processes + self.rank
            chosen = batches[place]
            yield Chosen(chosen[:, 0], chosen[:, 1], (self.seed, epoch, place))

    def count(self, epoch: int) -> int:
        """Batches of an epoch, on each process."""
        return len(self._batches(epoch)[0]) // self.processes

    def alone(self, epoch: int) -> int:
        """Queries that no batch of an epoch has, since each would be alone there with a single passage."""
        if all(source.group_size > 1 or source.paired for source in self.sources):
            return 0
        return self._batches(epoch)[1]

    def _batches(self, epoch: int) -> tuple[list[NDArray[np.int64]], int]:
        """(queries, 2) of each batch: source and row; and how many queries would be alone in theirs."""
        random = np.random.default_rng([self.seed, epoch])
        found: list[NDArray[np.int64]] = []
        drawn = 0
        for pool in self._pools():
            rows = np.concatenate([self._drawn(number, random) for number in pool])
            drawn += len(rows)
            found += self._cut(rows[random.permutation(len(rows))])
        # Long and short batches, and those of all files, in any order.
        alone = drawn - sum(map(len, found))
        return [found[place] for place in random.permutation(len(found))], alone

    def _pools(self) -> list[list[int]]:
        """Numbers of sources whose examples may share a batch."""
        if self.batch.same_source:
            return [[number] for number in range(len(self.sources))]
        pools: dict[tuple[object, ...], list[int]] = {}
        for number, source in enumerate(self.sources):
            recipe = source.recipe
            key = (
                source.group_size,
                source.kind,
                source.scored,
                source.labelled,
                recipe.in_batch_negatives,
                recipe.batch_texts,
            )
            pools.setdefault(key, []).append(number)
        return list(pools.values())

    def _drawn(self, number: int, random: np.random.Generator) -> NDArray[np.int64]:
        """(drawn, 2): the examples of a source as often as its weight says."""
        source = self.sources[number]
        whole, part = divmod(source.recipe.weight, 1.0)
        rows = [np.arange(len(source), dtype=np.int64)] * int(whole)
        if part:
            rows.append(random.permutation(len(source))[: max(1, round(part * len(source)))])
        drawn = np.concatenate(rows)
        return np.stack([np.full(len(drawn), number), drawn], axis=1)

    def _cut(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Batches of shuffled examples of one pool."""
        source = self.sources[int(rows[0, 0])]
        sizes = np.empty(len(rows), dtype=np.int64)
        for number in np.unique(rows[:, 0]):
            own = rows[:, 0] == number
            sizes[own] = self.sources[number].group_sizes()[rows[own, 1]]
        texts = source.recipe.batch_texts or self.batch.texts or len(rows)
        if source.kind.startswith("symmetric"):
            texts = max(texts // 2, 1)
        if self.batch.by_length:
            rows, sizes = self._sorted(rows, sizes, texts)
        batches = [rows[part] for part in _parts(sizes, texts, self.batch.tokens)]
        # One query alone, with one passage alone, has a loss of 0 whatever the model does; but a pair that a
        # reranker reads has a label of its own.
        return [batch for batch in batches if len(batch) > 1 or source.group_size > 1 or source.paired]

    def _sorted(
        self, rows: NDArray[np.int64], sizes: NDArray[np.int64], texts: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The same examples, longest first within each window."""
        if self.batch.tokens is not None:
            texts = min(texts, max(1, round(self.batch.tokens / max(float(sizes.mean()), 1.0))))
        window = texts * _WINDOW_BATCHES
        # A stable sort: equal lengths keep their random order.
        order = np.concatenate(
            [
                first + np.argsort(-sizes[first : first + window], kind="stable")
                for first in range(0, len(rows), window)
            ]
        )
        return rows[order], sizes[order]


def _parts(sizes: NDArray[np.int64], texts: int, tokens: int | None) -> Iterator[slice]:
    """Consecutive examples: at most so many, and of at most so many tokens; a longer one goes alone."""
    if tokens is None:
        yield from (slice(first, first + texts) for first in range(0, len(sizes), texts))
        return
    start = total = 0
    for place, size in enumerate(sizes.tolist()):
        if place > start and (total + size > tokens or place - start == texts):
            yield slice(start, place)
            start, total = place, 0
        total += size
    yield slice(start, len(sizes))
