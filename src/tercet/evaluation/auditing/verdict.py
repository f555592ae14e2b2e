"""The fastest scheme within the budget, and a sentence about each other one."""

from __future__ import annotations

__all__ = ["decide"]

from collections.abc import Sequence

from tercet.evaluation.audit_result import AuditRow, Verdict
from tercet.evaluation.auditing.budget import Budget

# What two runs of one scheme may differ by: a smaller gain is none.
_NOISE = 1.05


def decide(rows: Sequence[AuditRow], reference: str, budget: Budget) -> Verdict:
    """The verdict over all schemes.

    Args:
        rows: of every scheme and head.
        reference: name of the float32 that everything is compared with; it is always within the budget.
        budget: what a scheme may cost.
    """
    schemes: dict[str, list[AuditRow]] = {}
    for row in rows:
        schemes.setdefault(row.name, []).append(row)
    broken = {name: _broken(found, name, reference, budget) for name, found in schemes.items()}
    within = {
        name: found[0]
        for name, found in schemes.items()
        if not broken[name] and name != reference and found[0].relative_speed is not None
        if found[0].label != "float64"
    }
    fastest = max(within, key=lambda name: within[name].relative_speed or 0.0, default=None)
    chosen = schemes[reference][0]
    if fastest is not None and (within[fastest].relative_speed or 0.0) >= _NOISE:
        chosen = within[fastest]
    timed = [found[0] for name, found in schemes.items() if found[0].relative_speed is not None]
    decided = all(row.quiet for row in timed if row.name in within or row.name == reference)
    return Verdict(
        label=chosen.label,
        engine=chosen.engine,
        float32_layers=chosen.float32_layers,
        budget=str(budget),
        reason=_reason(chosen, reference, schemes[chosen.name], budget, decided),
        others=tuple(
            _other(name, found, broken[name], chosen, budget)
            for name, found in schemes.items()
            if name != chosen.name
        ),
        decided=decided,
    )


def _broken(rows: Sequence[AuditRow], name: str, reference: str, budget: Budget) -> list[str]:
    if rows[0].failure is not None:
        return [f"it does not run here: {rows[0].failure}"]
    return [] if name == reference else budget.broken(rows)


def _reason(row: AuditRow, reference: str, rows: Sequence[AuditRow], budget: Budget, decided: bool) -> str:
    doubt = (
        "" if decided else " The machine was busy: the times decide nothing, audit again when it is quiet."
    )
    if row.name == reference:
        return f"{row.name}: nothing faster keeps within {budget}.{doubt}"
    return (
        f"{row.name} is the fastest within {budget}: {row.relative_speed:.2f} times as fast as float32; "
        f"{_cost(rows)}.{doubt}"
    )


def _cost(rows: Sequence[AuditRow]) -> str:
    drifts = [row for row in rows if row.drift_mean is not None]
    said = [f"{row.head} mean 1 - cosine {row.drift_mean:.1e}, worst {row.drift_worst:.1e}" for row in drifts]
    said += [
        f"{metric.name} of {row.head} {metric.change:+.4f}" for row in rows for metric in row.metrics[:1]
    ]
    return ", ".join(said)


def _other(
    name: str, rows: Sequence[AuditRow], broken: Sequence[str], chosen: AuditRow, budget: Budget
) -> str:
    row = rows[0]
    if row.failure is not None:
        return f"{name} does not run here: {row.failure}"
    speed = "" if row.relative_speed is None else f", {row.relative_speed:.2f} times as fast as float32"
    again = f"; {row.recomputed:,} texts left its range and were computed again" if row.recomputed else ""
    if broken:
        return f"{name}{speed}, is beyond {budget}: {'; '.join(broken)}{again}."
    return f"{name}{speed}, is within {budget}{again}; {chosen.name} was taken."
