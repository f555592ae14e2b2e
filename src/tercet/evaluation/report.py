"""What an evaluation found: figures of each system, and everything they were found under."""

from __future__ import annotations

__all__ = ["Report", "System"]

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tercet.errors import UnknownNameError, nearest
from tercet.evaluation.metrics import Scores

# Of the layout below, for reports that are read back.
_VERSION = 1


@dataclass(frozen=True, slots=True)
class System:
    """One way to score, and what it is worth.

    Attributes:
        name: "dense", "sparse", "multivector", "dense+sparse", "hybrid", "rrf"; of similarity "cosine", ….
        metrics: name -> mean over the queries; None where there is none (a correlation with a constant).
        expected: the same, expected over all orders of equal scores; empty where nothing is ranked.
        queries: names of those that the means are over.
        per_query: metric -> value of each of these queries.
        tied: how many queries have equal scores anywhere in their ranking.
    """

    name: str
    metrics: Mapping[str, float | None]
    expected: Mapping[str, float]
    queries: Sequence[str] = ()
    per_query: Mapping[str, Sequence[float]] = field(default_factory=dict)
    tied: int = 0

    @classmethod
    def of(cls, name: str, scores: Scores) -> System:
        """A ranking system with these scores."""
        return cls(
            name, scores.means, scores.expected_means, list(scores.queries), dict(scores.values), scores.tied
        )


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one evaluation; `report["dense"].metrics["ndcg@10"]`.

    Attributes:
        task: "retrieval", "similarity", "reranking" or "run".
        data: what was evaluated on: name, layout, split, sha256, counts, notes.
        model: what decides its vectors, by hash, and its name; None of a run file.
        settings: metrics, gain, depth, weights, and what else decides a figure.
        systems: figures of each way to score, in a fixed order.
        work: texts, tokens, seconds and texts that were cut.
        stored: whether it was read back from the cache instead of computed.
    """

    task: str
    data: Mapping[str, Any]
    model: Mapping[str, Any] | None
    settings: Mapping[str, Any]
    systems: tuple[System, ...]
    work: Mapping[str, Any]
    stored: bool = False

    def __getitem__(self, name: str) -> System:
        found = next((system for system in self.systems if system.name == name), None)
        if found is None:
            known = [system.name for system in self.systems]
            raise UnknownNameError(f"There is no system {name!r} in this report. {nearest(name, known)}")
        return found

    def to_json(self, *, per_query: bool = True) -> dict[str, Any]:
        """Plain values; those of single queries can be left out."""
        plain = {"report_version": _VERSION, **asdict(self), "systems": []}
        for system in self.systems:
            entry = asdict(system)
            if not per_query:
                entry = {name: value for name, value in entry.items() if name not in ("queries", "per_query")}
                entry["num_queries"] = len(system.queries)
            plain["systems"].append(entry)
        return plain

    @classmethod
    def from_json(cls, data: Any) -> Report | None:
        """The inverse of `to_json`, marked as stored; None where `data` is something else."""
        try:
            fields = {name: value for name, value in data.items() if name != "report_version"}
            if data["report_version"] != _VERSION:
                return None
            fields["systems"] = tuple(System(**entry) for entry in data["systems"])
            return replace(cls(**fields), stored=True)
        except (AttributeError, KeyError, TypeError):
            return None
