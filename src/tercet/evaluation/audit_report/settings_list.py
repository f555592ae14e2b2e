"""Every setting, version and fact about machine, model and data."""

from __future__ import annotations

__all__ = ["facts_line", "settings_lists"]

from collections.abc import Mapping
from typing import Any

from tercet.evaluation.audit_report import wording
from tercet.evaluation.audit_report.markup import Markup, element, joined
from tercet.evaluation.audit_result import AuditResult


def facts_line(result: AuditResult) -> str:
    """Data and machine in short: "1,400 documents · 225 queries · AMD EPYC · audited in 6 min 58 s"."""
    texts = result.texts
    parts = [
        f"{texts[name]:,} {word if texts[name] != 1 else word.removesuffix('s')}"
        for name, word in (("documents", "documents"), ("queries", "queries"))
        if isinstance(texts.get(name), int) and texts[name]
    ]
    parts = [part.replace("querie", "query") if part.endswith("querie") else part for part in parts]
    machine = result.machine.get("name") or result.machine.get("device")
    parts += [str(machine)] if machine else []
    return " · ".join([*parts, f"audited in {wording.seconds(result.seconds)}"])


def settings_lists(result: AuditResult) -> Markup:
    """Everything that was asked for, and under which the figures came."""
    model = {"model": result.model, "weights (sha256)": result.weights_sha256}
    groups: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ("Asked for", result.settings),
        ("Model", model),
        ("Texts", result.texts),
        ("Machine", result.machine),
        ("Versions", result.versions),
    )
    return joined(*(_group(title, values) for title, values in groups if values))


def _group(title: str, values: Mapping[str, Any]) -> Markup:
    entries = [
        element(
            "div",
            {},
            element("dt", {}, str(name).replace("_", " ")),
            element("dd", {}, wording.plain_value(value)),
        )
        for name, value in values.items()
    ]
    return joined(element("h3", {}, title), element("dl", {"class": "settings"}, *entries))
