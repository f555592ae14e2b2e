"""One scheme through all texts: embedded part by part in a process of its own, timed, compared."""

from __future__ import annotations

__all__ = ["Run", "spread_positions"]

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch

from tercet.checkpoint.layout import Checkpoint
from tercet.embeddings import Embeddings
from tercet.evaluation.audit_result import AuditRow
from tercet.evaluation.auditing.measuring import Queries, Side, head_rows, systems_of
from tercet.evaluation.auditing.parts import read_part
from tercet.evaluation.auditing.process import Worker, WorkerFailed
from tercet.evaluation.auditing.store import SchemeFolder, Store
from tercet.evaluation.auditing.texts import AuditTexts
from tercet.evaluation.auditing.timing import time_in_turns
from tercet.evaluation.encoding import Encoding
from tercet.precision.plan import Plan
from tercet.scoring.hybrid import Weights

# Texts of a part; multi-vectors of a text take hundreds of times the memory.
_TEXTS, _TEXTS_MULTIVECTOR = 256, 64
_TIMED_TEXTS, _TIMED_CHARACTERS = 32, 20_000
_STANDING_IN = 200  # documents that stand for queries where there are none


def spread_positions(number: int, most: int) -> list[int]:
    """At most so many positions, spread evenly."""
    count = min(number, most)
    return [index * number // count for index in range(count)]


@dataclass(slots=True)
class Run:
    """What all schemes of one audit share.

    Attributes:
        checkpoint: the model.
        pooling: that replaces the checkpoint's.
        texts: what is embedded.
        encoding: how.
        store: where finished parts lie.
        reference: plan of the float32 that everything is compared with.
        exact: plan of float64, or None where float32 is the reference of drift, too.
        sample: so many documents and so many queries go through float64.
        metrics: names, where there are judgements.
        weights: of the combined score.
        progress: told texts and tokens that were embedded.
        stack: ends what was started.
    """

    checkpoint: Checkpoint
    pooling: str | None
    texts: AuditTexts
    encoding: Encoding
    store: Store
    reference: Plan
    exact: Plan | None
    sample: int
    metrics: tuple[str, ...]
    weights: Weights
    progress: Callable[[int, int], None]
    stack: ExitStack
    _baseline: Worker | None = field(default=None)
    _timed: list[str] = field(default_factory=list)

    @property
    def systems(self) -> tuple[str, ...]:
        """Heads, and "combined"."""
        return systems_of(self.encoding.outputs)

    @property
    def size(self) -> int:
        """Texts of a part."""
        return _TEXTS_MULTIVECTOR if "multivector" in self.encoding.outputs else _TEXTS

    @property
    def queries(self) -> Queries:
        """What is searched for."""
        if self.texts.queries:
            return Queries(tuple(self.texts.queries), None)
        positions = spread_positions(self.texts.num_documents, _STANDING_IN)
        found = self.texts.at(positions)
        return Queries(tuple(found[position].id for position in positions), tuple(positions))

    @property
    def sample_documents(self) -> list[int]:
        """Positions of the sample's documents."""
        return spread_positions(self.texts.num_documents, self.sample)

    @property
    def sample_queries(self) -> list[int]:
        """Positions of the sample's queries."""
        return spread_positions(len(self.texts.queries), self.sample) if self.texts.queries else []

    def reference_side(self) -> Side:
        """The embeddings of the float32 reference, made if need be.

        Raises:
            WorkerFailed: it does not run.
        """
        return self._side(self.reference)

    def rows(self, plan: Plan) -> tuple[AuditRow, ...]:
        """The rows of one scheme: taken over from an interrupted audit, or measured; a failure is one row."""
        folder = self.store.scheme(plan)
        finished = folder.rows()
        if finished is not None:
            self.progress(self.texts.num_documents + len(self.texts.queries), 0)
            return finished
        is_reference = plan == self.reference
        try:
            side = self._side(plan)
            rows = self._measured(plan, side, folder)
        except WorkerFailed as error:
            rows = (failed(plan, self.systems[0], str(error)),)
        folder.finish(rows, keep=is_reference)
        return rows

    def _measured(self, plan: Plan, side: Side, folder: SchemeFolder) -> tuple[AuditRow, ...]:
        notes = folder.notes("measured.json") or {}
        parts = [read_part(path)[1] for path in (*side.queries, *side.documents)]
        seconds = sum(part.seconds for part in parts)
        row = AuditRow(
            label=plan.scheme.label,
            engine=plan.scheme.engine,
            head="",
            float32_layers=plan.float32_layers,
            drift_reference="float32" if self.exact is None else "float64",
            texts_per_second=sum(part.texts for part in parts) / seconds,
            tokens_per_second=sum(part.tokens for part in parts) / seconds,
            relative_speed=notes["relative_speed"],
            quiet=notes["quiet"],
            load_seconds=notes["load_seconds"],
            peak_bytes=notes["peak_bytes"],
            recomputed=sum(part.recomputed for part in parts),
        )
        reference = side if plan == self.reference else self.reference_side()
        return tuple(
            head_rows(
                row,
                reference,
                side,
                texts=self.texts,
                queries=self.queries,
                sample=None if self.exact is None else (*self._sample_of(side), self._places()),
                systems=self.systems,
                metrics=self.metrics,
                weights=self.weights,
                tick=partial(self.progress, 0, 0),
            )
        )

    def _sample_of(self, side: Side) -> tuple[Embeddings, Embeddings]:
        """The sample in float64, and in a scheme."""
        found = [side.chosen("document", self.sample_documents)]
        if self.sample_queries:
            found.insert(0, side.chosen("query", self.sample_queries))
        return self._exact_sample(), Embeddings.concat(found)

    def _places(self) -> list[str]:
        return [f"query {number}" for number in self.sample_queries] + [
            f"document {number}" for number in self.sample_documents
        ]

    def _exact_sample(self) -> Embeddings:
        """The sample in float64, queries first, as `_places` has it."""
        assert self.exact is not None
        folder = self.store.scheme(self.exact, f"sample {self.sample}")
        documents = self.texts.at(self.sample_documents)
        asked = list(self.texts.queries.values())
        sample = [("query", asked[number]) for number in self.sample_queries]
        sample += [("document", documents[number].text) for number in self.sample_documents]
        wanted = []
        for role in ("query", "document"):
            texts = [text for other, text in sample if other == role]
            for number, first in enumerate(range(0, len(texts), self.size)):
                wanted.append((role, number, texts[first : first + self.size]))
        files = [folder.part(role, number) for role, number, _ in wanted]
        if not all(path.is_file() for path in files):
            with Worker() as worker:
                self._load(worker, self.exact)
                for role, number, texts in wanted:
                    self._embed(worker, folder, role, number, texts)
        return Embeddings.concat([read_part(path)[0] for path in files])

    def _side(self, plan: Plan) -> Side:
        """A scheme's embeddings of everything; what is missing is made, and then it is timed."""
        folder = self.store.scheme(plan)
        asked = list(self.texts.queries.values())
        query_parts = [asked[first : first + self.size] for first in range(0, len(asked), self.size)]
        numbers = -(-self.texts.num_documents // self.size)
        there = [folder.part("query", number) for number in range(len(query_parts))]
        documents = [folder.part("document", number) for number in range(numbers)]
        side = Side(tuple(documents), tuple(there))
        if folder.notes("measured.json") is not None and all(path.is_file() for path in (*there, *documents)):
            return side
        with Worker() as worker:
            loaded = self._load(worker, plan)
            for number, texts in enumerate(query_parts):
                self._embed(worker, folder, "query", number, texts)
            for number, chunk in enumerate(self.texts.chunks(self.size)):
                self._embed(worker, folder, "document", number, [document.text for document in chunk])
            notes: dict[str, Any] = {**loaded, **worker.ask("memory"), "relative_speed": 1.0, "quiet": True}
            if plan != self.reference:
                timing = time_in_turns(
                    self._float32_worker(), worker, self._timed_texts(), threads=torch.get_num_threads()
                )
                notes |= asdict(timing)
            folder.note("measured.json", notes)
        return side

    def _embed(
        self, worker: Worker, folder: SchemeFolder, role: str, number: int, texts: Sequence[str]
    ) -> None:
        path = folder.part(role, number)
        if not path.is_file():
            worker.ask("embed", role=role, texts=list(texts), path=str(path))
        part = read_part(path)[1]
        self.progress(part.texts, part.tokens)

    def _load(self, worker: Worker, plan: Plan) -> dict[str, Any]:
        return worker.ask(
            "load",
            folder=str(self.checkpoint.folder.absolute()),
            pooling=self.pooling,
            plan=plan.to_json(),
            encoding=asdict(self.encoding),
            threads=torch.get_num_threads(),
        )

    def _float32_worker(self) -> Worker:
        """The one that others are timed against; it stays until the end."""
        if self._baseline is None:
            self._baseline = self.stack.enter_context(Worker())
            self._load(self._baseline, self.reference)
        return self._baseline

    def _timed_texts(self) -> list[str]:
        if not self._timed:
            size = 0
            found = self.texts.at(spread_positions(self.texts.num_documents, _TIMED_TEXTS))
            for document in found.values():
                self._timed.append(document.text)
                size += len(document.text)
                if size > _TIMED_CHARACTERS:
                    break
        return self._timed


def failed(plan: Plan, head: str, why: str) -> AuditRow:
    """The row of a scheme that does not run."""
    return AuditRow(
        label=plan.scheme.label,
        engine=plan.scheme.engine,
        head=head,
        float32_layers=plan.float32_layers,
        failure=why,
    )
