"""An audit as the page looks at it: schemes with their colours, heads, the metric, the budget's limits."""

from __future__ import annotations

__all__ = ["SchemeView", "View", "head_title", "metric_title"]

import re
from collections import Counter
from dataclasses import dataclass

from tercet.evaluation.audit_report.markup import plain
from tercet.evaluation.audit_report.palette import MARKERS, SCHEME_COLOURS
from tercet.evaluation.audit_result import AuditResult, AuditRow, MetricChange

HEADS = ("dense", "sparse", "multivector", "combined")
HEAD_TITLES = {
    "dense": "Dense",
    "sparse": "Sparse",
    "multivector": "Multi-vector",
    "combined": "Combined",
}
_CLAUSE = re.compile(r"\s*([A-Za-z][\w@.%-]*)\s*(<=|<|>=|>|≤|≥)\s*(\d*\.?\d+(?:[eE][-+]?\d+)?)\s*")
_LONGEST = 30


@dataclass(frozen=True, slots=True)
class SchemeView:
    """One scheme with its rows.

    Attributes:
        name: unique, as the audit tells it.
        short: unique and short enough for a picture.
        colour: the name of its colour; the first scheme is the reference and grey.
        marker: matplotlib's name of its mark.
        rows: head -> row.
        chosen: whether it is the verdict's.
    """

    name: str
    short: str
    colour: str
    marker: str
    rows: dict[str, AuditRow]
    chosen: bool

    @property
    def any_row(self) -> AuditRow:
        """One that tells what is the same for all heads."""
        return next(iter(self.rows.values()))

    @property
    def failure(self) -> str | None:
        """Why it does not run; None where a head of it does."""
        failures = [row.failure for row in self.rows.values()]
        return failures[0] if failures and all(failures) else None


@dataclass(frozen=True, slots=True)
class View:
    """An audit, sorted for people.

    Attributes:
        result: what it is of.
        schemes: in the order of their first rows.
        heads: those that any row has, in a fixed order.
    """

    result: AuditResult
    schemes: tuple[SchemeView, ...]
    heads: tuple[str, ...]

    @classmethod
    def of(cls, result: AuditResult) -> View:
        """That of a result."""
        grouped: dict[str, dict[str, AuditRow]] = {}
        for row in result.rows:
            grouped.setdefault(row.name, {})[row.head] = row
        verdict = result.verdict
        chosen = (verdict.label, verdict.engine, verdict.float32_layers)
        firsts = [next(iter(rows.values())) for rows in grouped.values()]
        schemes = tuple(
            SchemeView(
                name,
                short,
                "reference" if place == 0 else SCHEME_COLOURS[(place - 1) % len(SCHEME_COLOURS)],
                MARKERS[place % len(MARKERS)],
                rows,
                (first.label, first.engine, first.float32_layers) == chosen,
            )
            for place, ((name, rows), first, short) in enumerate(
                zip(grouped.items(), firsts, _short_names(firsts), strict=True)
            )
        )
        present = {row.head for row in result.rows}
        known = tuple(head for head in HEADS if head in present)
        return cls(result, schemes, known + tuple(sorted(present - set(HEADS))))

    @property
    def running(self) -> tuple[SchemeView, ...]:
        """The schemes that run here."""
        return tuple(scheme for scheme in self.schemes if scheme.failure is None)

    @property
    def chosen(self) -> SchemeView | None:
        """The verdict's scheme."""
        return next((scheme for scheme in self.schemes if scheme.chosen), None)

    @property
    def metric(self) -> str | None:
        """The metric that stands for quality: nDCG where it is there, else the first; None without any."""
        names = [metric.name for row in self.result.rows for metric in row.metrics]
        return next((name for name in names if name.startswith("ndcg")), names[0] if names else None)

    def change(self, row: AuditRow) -> MetricChange | None:
        """That metric of a row."""
        return next((metric for metric in row.metrics if metric.name == self.metric), None)

    @property
    def limits(self) -> dict[str, float]:
        """The budget's limits by name in small letters: of "ndcg<=0.002,worst<=1e-3"; of other words none."""
        found = {}
        for clause in re.split(r",|;|\band\b|&", self.result.verdict.budget):
            match = _CLAUSE.fullmatch(clause)
            if match:
                found[match[1].lower()] = float(match[3])
        return found

    @property
    def metric_limit(self) -> float | None:
        """How much of the metric the budget lets go, where it says so."""
        for name, limit in self.limits.items():
            if self.metric is not None and name in (self.metric, self.metric.partition("@")[0]):
                return limit
        return None

    @property
    def drift_bound(self) -> tuple[str, float | None]:
        """The budget's limits by name in small letters: of "ndcg<=0.002"; none of what is no limit."""
        for name, measure in (("worst", "worst"), ("cosine", "mean")):
            if name in self.limits:
                return measure, self.limits[name]
        return "p99", None


def head_title(head: str) -> str:
    """A head as people write it: "Multi-vector"."""
    return HEAD_TITLES.get(head, head)


def metric_title(name: str | None) -> str:
    """A metric as people write it: "nDCG@10"."""
    return (name or "the metric").replace("ndcg", "nDCG").replace("mrr", "MRR").replace("map", "MAP")


def _short_names(rows: list[AuditRow]) -> list[str]:
    """Labels; where two are alike with their engines, and cut where they are long; all of them differ."""
    labels = [row.label + (" mixed" if row.float32_layers else "") for row in rows]
    again = Counter(labels)
    shorts = [
        f"{label}, {row.engine}" if again[label] > 1 else label
        for row, label in zip(rows, labels, strict=True)
    ]
    cut = [plain(short if len(short) <= _LONGEST else short[: _LONGEST - 1] + "…") for short in shorts]
    again = Counter(cut)
    return [f"{short} #{place}" if again[short] > 1 else short for place, short in enumerate(cut, start=1)]
