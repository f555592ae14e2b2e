"""A merged model beside its parents on the user's own texts: how far vectors moved, and what is found."""

from __future__ import annotations

__all__ = ["ParentAudit", "audit_merge", "check_auditable"]

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tercet.checkpoint.encoder_files import ARCHITECTURES
from tercet.checkpoint.reranker_files import is_reranker
from tercet.embedder import Embedder, load
from tercet.embeddings import Embeddings
from tercet.errors import InputError
from tercet.evaluation.auditing.texts import AuditTexts
from tercet.evaluation.drift import Drift, DriftMeter
from tercet.evaluation.ranking import RankingChange, RankingMeter
from tercet.merging.folder import ModelFolder
from tercet.merging.planning import MergePlan
from tercet.scoring import score_matrix

_DOCUMENTS, _QUERIES = 512, 128  # vectors of several tokens are held for so many
_DEPTH = 10


@dataclass(frozen=True, slots=True)
class ParentAudit:
    """The merged model against one that it was made of, on the same texts, both in float32.

    Attributes:
        model: the parent.
        documents, queries: how many of the texts; documents stand for queries where there are none.
        drift: how far the documents' vectors lie from the parent's; None where it was not compared.
        rankings: head -> how the best ten documents of the queries changed.
        note: why nothing was compared, or "".
    """

    model: str
    documents: int
    queries: int
    drift: Drift | None
    rankings: Mapping[str, RankingChange]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """For merge_report.json."""
        return asdict(self)

    def sentences(self) -> list[str]:
        """For people, one a head."""
        if self.drift is None:
            return [f"{self.model}: not compared. {self.note}"]
        made = []
        for head, ranking in self.rankings.items():
            moved = getattr(self.drift, head)
            made.append(
                f"{self.model}, {head}: cosine to its vectors {1 - moved.cosine.mean:.4f} on the average, "
                f"{1 - moved.cosine.worst:.4f} at worst, of {self.documents} texts; of the best {ranking.k} "
                f"for {self.queries} queries {ranking.overlap_mean:.0%} are the same."
            )
        return made


def check_auditable(plan: MergePlan) -> None:
    """An InputError where the result will have no vectors that could be compared."""
    kind = plan.donor.config.get("model_type")
    if is_reranker(plan.donor.folder):
        raise InputError(
            f"{plan.donor.name} is a reranker, which gives scores and no vectors. Leave the audit out, and "
            "compare with tercet evaluate; nothing was written."
        )
    if kind is not None and kind not in (*ARCHITECTURES, "model2vec"):
        raise InputError(
            f"{plan.donor.name} is of type {kind!r}, which is merged but not embedded here. Leave the audit "
            "out; nothing was written."
        )


def audit_merge(folder: Path, parents: Mapping[str, ModelFolder], texts: AuditTexts) -> list[ParentAudit]:
    """The result against each parent, one in memory at a time beside it.

    Args:
        folder: of the result.
        parents: by their names.
        texts: at most 512 documents, evenly spread, and 128 queries of them are used; without queries the
            first documents stand for them.
    """
    count = min(texts.num_documents, _DOCUMENTS)
    positions = [place * texts.num_documents // count for place in range(count)]
    documents = [one.text for one in texts.at(positions).values()]
    queries = list(texts.queries.values())[:_QUERIES]
    mine = _Vectors.of(load(folder, precision="float32", device="cpu"), documents, queries)
    found = []
    for name, parent in parents.items():
        if parent.adapter is not None:
            note = "It is a base with an adapter folded in, which is in no folder."
            found.append(ParentAudit(name, count, 0, None, {}, note))
            continue
        theirs = _Vectors.of(load(parent.folder, precision="float32", device="cpu"), documents, queries)
        found.append(_compared(name, theirs, mine))
    return found


@dataclass(frozen=True, slots=True)
class _Vectors:
    documents: Embeddings
    queries: Embeddings
    own: bool  # the queries are the first documents

    @classmethod
    def of(cls, model: Embedder, documents: list[str], queries: list[str]) -> _Vectors:
        embedded = model.encode_document(documents, outputs=model.outputs)
        if queries:
            return cls(embedded, model.encode_query(queries, outputs=model.outputs), False)
        return cls(embedded, embedded[: min(len(documents), _QUERIES)], True)


def _compared(name: str, theirs: _Vectors, mine: _Vectors) -> ParentAudit:
    documents, queries = len(mine.documents), len(mine.queries)
    if theirs.documents.outputs != mine.documents.outputs:
        note = (
            f"It gives {', '.join(theirs.documents.outputs)} vectors, the result "
            f"{', '.join(mine.documents.outputs)}."
        )
        return ParentAudit(name, documents, queries, None, {}, note)
    meter = DriftMeter()
    meter.add(theirs.documents, mine.documents)
    scores = [score_matrix(side.queries, side.documents) for side in (theirs, mine)]
    rankings = {}
    for head in mine.documents.outputs:
        both = [getattr(side, head).float() for side in scores]
        if mine.own:
            # no text finds itself
            for matrix in both:
                matrix[torch.arange(queries), torch.arange(queries)] = -torch.inf
        ranking = RankingMeter(_DEPTH)
        ranking.add(both[0], both[1])
        rankings[head] = ranking.change()
    return ParentAudit(name, documents, queries, meter.drift(), rankings)
