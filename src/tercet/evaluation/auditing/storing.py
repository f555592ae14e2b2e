"""What it costs to store vectors narrower, shorter or fewer: float32's own, as an index would hold them."""

from __future__ import annotations

__all__ = ["stored_rows"]

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tercet.embeddings import Embeddings, MultiVectors
from tercet.evaluation.audit_result import MetricChange, StoredRow
from tercet.evaluation.auditing.measuring import Queries, Side, metric_changes, score_blocks
from tercet.evaluation.auditing.parts import read_part
from tercet.evaluation.auditing.texts import AuditTexts
from tercet.evaluation.metrics import Scores, evaluate_run, parse_metrics
from tercet.evaluation.ranking import RankingMeter
from tercet.evaluation.top import TopDocuments
from tercet.quantization import Quantizer, pool_tokens, truncate, truncate_multivectors
from tercet.quantization.stored import stored_precision
from tercet.scoring import best, maxsim_scores, sparse_scores, stored_scores

_DEPTH = 10
_RESCORED = 4  # times as many candidates as are looked at
_TOKEN_BYTES = 6  # of a lexical weight: an id in 4, float16 in 2
_POOL_FACTORS = (1.0, 2.0)


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to store."""

    head: str
    precision: str
    dimensions: int
    pool_factor: float = 1.0
    rescored: bool = False


def stored_rows(
    reference: Side,
    *,
    texts: AuditTexts,
    queries: Queries,
    precisions: Sequence[str],
    dimensions: Sequence[int],
    metrics: Sequence[str],
    tick: Callable[[], None],
) -> list[StoredRow]:
    """A row for each way to store float32's vectors, against rankings by what is not narrowed.

    Dense vectors: every precision at every number of dimensions, those with codes also rescored.
    Multi-vectors: every precision, and one vector for two. Lexical weights: float16.

    Args:
        reference: float32's embeddings.
        texts: what was embedded.
        queries: what is searched for.
        precisions: of stored vectors.
        dimensions: of dense vectors; all of them are always looked at.
        metrics: names, where there are judgements.
        tick: called after each way.

    Raises:
        UnknownNameError: another precision.
    """
    asked = queries.of(reference)
    rows: list[StoredRow] = []
    ids = [document.id for document in texts.documents()] if texts.qrels is not None else []
    for head in asked.outputs:
        for way in _ways(asked, head, [stored_precision(name) for name in precisions], dimensions):
            rows.append(_row(way, reference, asked, ids, texts, queries, metrics))
            tick()
    return rows


def _ways(
    asked: Embeddings, head: str, precisions: Sequence[str], dimensions: Sequence[int]
) -> Iterator[_Way]:
    if head == "sparse":
        assert asked.sparse is not None
        if "float16" in precisions:
            yield _Way(head, "float16", asked.sparse.vocabulary)
        return
    if head == "multivector":
        assert asked.multivector is not None
        width = asked.multivector.dim
        for factor in _POOL_FACTORS:
            for precision in dict.fromkeys(["float32", *precisions]):
                if (factor, precision) != (1.0, "float32"):
                    yield _Way(head, precision, width, factor)
        for shorter in dimensions:
            if shorter < width:
                yield _Way(head, "float32", shorter)
        return
    assert asked.dense is not None
    width = asked.dense.shape[1]
    for size in sorted({width, *dimensions}, reverse=True):
        for precision in dict.fromkeys(["float32", *precisions]):
            if (size, precision) == (width, "float32"):
                continue
            yield _Way(head, precision, size)
            if precision in ("int8", "binary", "ubinary"):
                yield _Way(head, precision, size, rescored=True)


def _row(
    way: _Way,
    reference: Side,
    asked: Embeddings,
    ids: Sequence[str],
    texts: AuditTexts,
    queries: Queries,
    metrics: Sequence[str],
) -> StoredRow:
    meter = RankingMeter(_DEPTH)
    cutoffs = (
        [metric.cutoff or _DEPTH for metric in parse_metrics(metrics)] if texts.qrels is not None else []
    )
    depth = max([_DEPTH, *cutoffs])
    store = _Store(way, reference)
    judged: list[list[TopDocuments]] = [[], []]
    for first, (exact,) in score_blocks((reference,), queries, texts.num_documents, (way.head,), (1, 1, 1)):
        before = exact[way.head]
        here = asked[first : first + len(before)]
        own = (
            None
            if queries.documents is None
            else torch.tensor(queries.documents[first : first + len(before)])
        )
        after = store.scores(here, own, depth)
        meter.add(before, after)
        if texts.qrels is not None:
            for side, scores in enumerate((before, after)):
                top = TopDocuments(len(scores), depth)
                top.add(ids, scores)
                judged[side].append(top)
    changes: tuple[MetricChange, ...] = ()
    if texts.qrels is not None:
        found: list[Scores] = []
        for tops in judged:
            rankings = (ranking for top in tops for ranking in top.rankings())
            found.append(evaluate_run(dict(zip(queries.ids, rankings, strict=True)), texts.qrels, metrics))
        changes = metric_changes(found[0], found[1])
    change = meter.change()
    return StoredRow(
        head=way.head,
        precision=way.precision,
        dimensions=way.dimensions,
        pool_factor=way.pool_factor,
        rescored=way.rescored,
        bytes_per_text=store.bytes / max(1, store.texts),
        overlap_at_10=change.overlap_mean,
        rank_biased_overlap=change.rbo_mean,
        metrics=changes,
        clipped=store.clipped,
    )


class _Store:
    """Documents as one way stores them: encoded part by part when they are scored, never held all at once."""

    def __init__(self, way: _Way, reference: Side) -> None:
        self._way = way
        self._paths = reference.documents
        self.bytes = self.texts = self.clipped = 0
        self._quantizer = None if way.head == "sparse" else Quantizer.fit(self._vectors(), way.precision)

    def scores(self, queries: Embeddings, own: Tensor | None, depth: int) -> Tensor:
        """(queries, documents); rescored ones leave all but the candidates at minus infinity.

        `own`: (queries,) the documents that the queries are, which are not found.
        """
        self.bytes = self.texts = self.clipped = 0
        coarse, fine = [], []
        for path in self._paths:
            embeddings, part = read_part(path)
            self.texts += part.texts
            if self._way.head == "sparse":
                coarse.append(self._sparse(queries, embeddings))
            elif self._way.head == "multivector":
                coarse.append(self._late(queries, embeddings))
            else:
                one, other = self._dense(queries, embeddings)
                coarse.append(one)
                fine.append(other)
        found = torch.cat(coarse, dim=1)
        if own is not None:
            found[torch.arange(len(own)), own] = -torch.inf
        if self._way.rescored:
            candidates = best(found, _RESCORED * depth)[1]
            again = torch.full_like(found, -torch.inf)
            again.scatter_(1, candidates, torch.cat(fine, dim=1).gather(1, candidates))
            if own is not None:
                again[torch.arange(len(own)), own] = -torch.inf
            return again
        return found

    def _vectors(self) -> Iterator[Tensor]:
        """Rows to calibrate by: all that will be stored."""
        for path in self._paths:
            embeddings, _ = read_part(path)
            if self._way.head == "dense":
                assert embeddings.dense is not None
                yield truncate(embeddings.dense, self._way.dimensions)
            else:
                yield self._pooled(embeddings).vectors

    def _dense(self, queries: Embeddings, documents: Embeddings) -> tuple[Tensor, Tensor]:
        """Scores by codes on both sides, and by full queries."""
        assert self._quantizer is not None
        assert queries.dense is not None
        assert documents.dense is not None
        stored = self._quantizer.encode(truncate(documents.dense, self._way.dimensions))
        self.clipped += stored.clipped
        self.bytes += len(stored) * self._quantizer.bytes_per_vector
        asked = truncate(queries.dense, self._way.dimensions)
        coarse = stored_scores(asked, stored.codes, self._quantizer, quantize_queries=True)
        fine = stored_scores(asked, stored.codes, self._quantizer) if self._way.rescored else coarse
        return coarse, fine

    def _late(self, queries: Embeddings, documents: Embeddings) -> Tensor:
        """Late interaction of full queries with what stored rows stand for."""
        assert self._quantizer is not None
        assert queries.multivector is not None
        pooled = self._pooled(documents)
        stored = self._quantizer.encode(pooled.vectors)
        self.clipped += stored.clipped
        self.bytes += len(stored) * self._quantizer.bytes_per_vector
        decoded = MultiVectors(self._quantizer.decode(stored.codes), pooled.offsets)
        asked = truncate_multivectors(queries.multivector, self._way.dimensions)
        return maxsim_scores(asked, decoded).float()

    def _pooled(self, documents: Embeddings) -> MultiVectors:
        assert documents.multivector is not None
        shorter = documents.multivector
        if self._way.dimensions < shorter.dim:
            shorter = truncate_multivectors(shorter, self._way.dimensions)
        return pool_tokens(shorter, self._way.pool_factor)

    def _sparse(self, queries: Embeddings, documents: Embeddings) -> Tensor:
        assert queries.sparse is not None
        assert documents.sparse is not None
        stored = documents.sparse.to(torch.float16)
        self.bytes += len(stored.token_ids) * _TOKEN_BYTES
        return sparse_scores(queries.sparse, stored.to(torch.float32)).float()
