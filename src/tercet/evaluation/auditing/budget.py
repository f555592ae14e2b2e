"""How much a precision may cost: "ndcg<=0.002,worst<=1e-3", and what a scheme's rows say to it."""

from __future__ import annotations

__all__ = ["DEFAULT_BUDGET", "Budget", "Limit"]

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from tercet.errors import InputError, UnknownNameError, nearest
from tercet.evaluation.audit_result import AuditRow
from tercet.evaluation.metrics import Metric

# What `Drift.invisible` calls no visible loss.
DEFAULT_BUDGET = "cosine<=5e-6,worst<=5e-5"
_OWN = ("cosine", "worst", "overlap", "rbo", "tau")
_METRICS = ("ndcg", "recall", "mrr", "map", "precision", "hit_rate")
_LIMIT = re.compile(r"\s*([a-z_]+(?:@\d+)?)\s*(<=|>=)\s*(\S+?)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Limit:
    """One bound: "cosine" and "worst" of 1 - cosine, a metric's loss, or how much of a ranking stays."""

    name: str
    sign: Literal["<=", ">="]
    value: float

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.value:g}"

    @property
    def is_metric(self) -> bool:
        """Whether judgements are needed."""
        return self.name not in _OWN

    def values(self, row: AuditRow) -> list[tuple[str, float]]:
        """(what it is called, its value) in this row; none where the row does not have it."""
        own = {
            "cosine": row.drift_mean,
            "worst": row.drift_worst,
            "overlap": row.overlap_at_10,
            "rbo": row.rank_biased_overlap,
            "tau": row.kendall_tau,
        }
        if not self.is_metric:
            found = own[self.name]
            return [] if found is None else [(f"{self.name} of {row.head}", found)]
        kind, _, cutoff = self.name.partition("@")
        return [
            (f"loss of {metric.name} of {row.head}", -metric.change)
            for metric in row.metrics
            if metric.name == self.name or (not cutoff and metric.name.partition("@")[0] == kind)
        ]

    def keeps(self, value: float) -> bool:
        """Whether a value is within."""
        return value <= self.value if self.sign == "<=" else value >= self.value


@dataclass(frozen=True, slots=True)
class Budget:
    """All bounds together; every head must keep each of them."""

    limits: tuple[Limit, ...]

    @classmethod
    def parse(cls, text: str, *, judged: bool, metrics: Sequence[str] = ()) -> Budget:
        """The budget of "ndcg<=0.002,cosine<=1e-4".

        Args:
            text: bounds with commas between: of "cosine" (mean 1 - cosine), "worst" (largest 1 - cosine) and
                of a metric's loss with <=, of "overlap", "rbo" and "tau" with >=.
            judged: whether there are judgements, which metrics need.
            metrics: those that are computed.

        Raises:
            InputError: a bound that cannot be read, points the wrong way, or needs judgements.
            UnknownNameError: a name that is neither.
        """
        limits = tuple(_limit(part, judged, metrics) for part in text.split(",") if part.strip())
        if not limits:
            raise InputError("The budget is empty: give at least one bound, such as ndcg<=0.002.")
        return cls(limits)

    def __str__(self) -> str:
        return ",".join(map(str, self.limits))

    def broken(self, rows: Iterable[AuditRow]) -> list[str]:
        """A few words on each bound that one of these rows breaks, or that none of them can show."""
        rows = list(rows)
        said = []
        for limit in self.limits:
            found = [pair for row in rows for pair in limit.values(row)]
            if not found:
                said.append(f"{limit} cannot be told")
            said += [f"{name} is {value:.2g}" for name, value in found if not limit.keeps(value)]
        return said


def _limit(part: str, judged: bool, metrics: Sequence[str]) -> Limit:
    found = _LIMIT.fullmatch(part)
    if found is None:
        raise InputError(
            f"The budget's {part.strip()!r} cannot be read: give a name, <= or >=, and a number: ndcg<=0.002."
        )
    name, sign = found[1].lower(), found[2]
    try:
        value = float(found[3])
    except ValueError:
        value = float("nan")
    if not isfinite(value) or value < 0.0:
        raise InputError(
            f"The budget's {part.strip()!r} has {found[3]!r} for a bound: give a number of at least 0."
        )
    if name not in _OWN:
        if name.partition("@")[0] not in _METRICS:
            raise UnknownNameError(f"The budget has no bound {name!r}. {nearest(name, (*_OWN, *_METRICS))}")
        if not judged:
            raise InputError(
                f"The budget bounds {name}, which needs queries and judgements: give both, or bound cosine, "
                "worst or overlap."
            )
        if "@" in name:
            name = str(Metric.parse(name))
        known = {*metrics, *(metric.partition("@")[0] for metric in metrics)}
        if name not in known:
            raise InputError(
                f"The budget bounds {name}, which is not among the metrics ({', '.join(metrics)}). "
                "Add it there."
            )
    right = ">=" if name in ("overlap", "rbo", "tau") else "<="
    if sign != right:
        what = "what stays of a ranking, so more is better" if right == ">=" else "a loss, so less is better"
        raise InputError(
            f"The budget's {part.strip()!r}: {name} bounds {what}. Write {name}{right}{found[3]}."
        )
    return Limit(name, "<=" if sign == "<=" else ">=", value)
