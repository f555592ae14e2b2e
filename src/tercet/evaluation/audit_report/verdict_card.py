"""The verdict: one sentence a person can defend, with the numbers behind it."""

from __future__ import annotations

__all__ = ["verdict_card"]

from tercet.evaluation.audit_report import wording
from tercet.evaluation.audit_report.markup import Markup, element, joined
from tercet.evaluation.audit_report.schemes import SchemeView, View, head_title, metric_title
from tercet.evaluation.audit_report.tables import interval


def verdict_card(view: View) -> Markup:
    """What to take, why, its numbers, and what is said of the others."""
    verdict = view.result.verdict
    chosen = view.chosen
    kept = (
        f", {'layer' if len(verdict.float32_layers) == 1 else 'layers'} "
        f"{', '.join(map(str, verdict.float32_layers))} in float32"
        if verdict.float32_layers
        else ""
    )
    name = f"{verdict.label} ({verdict.engine}{kept})"
    take = f"Take {name}" if verdict.decided else f"Stay with {name} for now"
    undecided = (
        ""
        if verdict.decided
        else element(
            "p",
            {"class": "warning"},
            "Undecided: others disturbed the timing, so nothing is known to be faster. Run the audit again "
            "on a quiet machine.",
        )
    )
    others = (
        element(
            "details",
            {},
            element("summary", {}, f"Why not another? ({len(verdict.others)})"),
            element("ul", {}, *(element("li", {}, sentence) for sentence in verdict.others)),
        )
        if verdict.others
        else ""
    )
    notes = element("ul", {"class": "notes"}, *(element("li", {}, note) for note in view.result.notes))
    noted = element("details", {"open": ""}, element("summary", {}, "What to know of these figures"), notes)
    return element(
        "section",
        {
            "class": "verdict",
            "aria-labelledby": "verdict",
            "style": f"--mark:var(--{chosen.colour if chosen else 'line'})",
        },
        element(
            "h2", {"id": "verdict"}, "Verdict · budget ", element("span", {"class": "budget"}, verdict.budget)
        ),
        element("p", {"class": "take"}, f"{take}."),
        element("p", {"class": "reason"}, verdict.reason),
        undecided,
        _numbers(view, chosen) if chosen is not None else "",
        others,
        noted if view.result.notes else "",
    )


def _numbers(view: View, chosen: SchemeView) -> Markup:
    """The verdict's numbers; of several heads, losses are told of each."""
    row = chosen.any_row
    pairs: list[tuple[str, str, str]] = []
    if row.texts_per_second is not None:
        pairs.append(
            (
                "Speed",
                f"{wording.rate(row.texts_per_second)} texts/s",
                f"{wording.times(row.relative_speed)} float32’s",
            )
        )
    for head in view.heads:
        found = chosen.rows.get(head)
        if found is not None and found.drift_p99 is not None:
            words = f"p50 {wording.drift(found.drift_p50)}, worst {wording.drift(found.drift_worst)}"
            pairs.append((f"Drift p99, {head_title(head).lower()}", wording.drift(found.drift_p99), words))
    for head in view.heads:
        found = chosen.rows.get(head)
        change = view.change(found) if found is not None else None
        if change is not None:
            words = f"{interval(change)}, p = {wording.p_value(change.p_value)}".replace("p = <", "p < ")
            words = words.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
            title = f"Change of {metric_title(view.metric)}, {head_title(head).lower()}"
            pairs.append((title, wording.signed(change.change), words))
    if row.peak_bytes is not None:
        reference = view.schemes[0].any_row.peak_bytes
        words = f"float32: {wording.size(reference)}" if chosen is not view.schemes[0] else ""
        pairs.append(("Peak memory", wording.size(row.peak_bytes), words))
    entries = [
        element(
            "div",
            {},
            element("dt", {}, title),
            element("dd", {}, value, element("small", {}, words) if words else ""),
        )
        for title, value, words in pairs
    ]
    return joined(element("dl", {"class": "numbers"}, *entries))
