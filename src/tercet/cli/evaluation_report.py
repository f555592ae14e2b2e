"""An evaluation for people: its figures as a table, and sentences about what they are of."""

from __future__ import annotations

__all__ = ["sentences", "show_report"]

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tercet.evaluation.report import Report


def show_report(report: Report) -> None:
    """The figures as a table on the standard output, what they mean on standard error."""
    from rich.console import Console
    from rich.table import Table

    names = list(report.systems[0].metrics)
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in names:
        # A name that is cut, as in "recall@1…", may stand for several.
        table.add_column(name, justify="right", min_width=len(name))
    for system in report.systems:
        values = [system.metrics[name] for name in names]
        table.add_row(system.name, *("-" if value is None else f"{value:.4f}" for value in values))
        if system.tied and any(
            f"{system.metrics[name]:.4f}" != f"{system.expected[name]:.4f}" for name in names
        ):
            expected = [f"{system.expected[name]:.4f}" for name in names]
            table.add_row(f"{system.name}, over ties", *expected, style="dim")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    for line in sentences(report):
        print(line, file=sys.stderr)


def sentences(report: Report) -> list[str]:
    """What the figures are of, and under what they were found."""
    data, settings, work = report.data, report.settings, report.work
    counts = [
        f"{data[name]:,} {name}" for name in ("documents", "queries", "judgements", "pairs") if name in data
    ]
    split = f", split {data['split']}" if data.get("split") else ""
    lines = [f"{data['name']}{split}: {', '.join(counts)}."]
    lines += [f"  {note}" for note in data["notes"]]
    if "gain" in settings:
        gain = {"linear": "linear gain, as trec_eval's", "exponential": "exponential gain (2^grade - 1)"}
        lines.append(
            f"nDCG with {gain[settings['gain']]}; relevant from grade {settings['relevance_level']} on; "
            "equal scores in trec_eval's order (id descending)."
        )
    if "remove_query" in settings:
        own = "is left out" if settings["remove_query"] else "may be found"
        lines.append(f"{settings['depth']:,} documents a query; a document with the query's own id {own}.")
    if report.model is not None:
        chosen = report.model["scheme"]
        # As it is asked for: int8 and int8-fast, float32 and tf32 share their dtypes.
        scheme = f"{chosen['variant'] or chosen['dtype']} ({chosen['engine']})"
        cut = [
            f"{work[name]:,} {name.replace('_', ' ')}"
            for name in ("queries_cut", "documents_cut")
            if work.get(name)
        ]
        lines.append(
            f"{report.model['name']}: {scheme} on {report.model['device']}, at most "
            f"{report.model['max_length']} tokens a text{'; ' if cut else ''}{', '.join(cut)}."
        )
        lines += _second_stage(report)
        how = "Kept from an earlier run (--refresh computes anew)" if report.stored else "Computed"
        lines.append(f"{how}: {work['texts']:,} texts, {work['tokens']:,} tokens in {work['seconds']:.1f} s.")
    return lines


def _second_stage(report: Report) -> list[str]:
    """What the reranker was, and what it changed."""
    stage, work = report.settings.get("reranker"), report.work
    if stage is None:
        return []
    scheme = f"{stage['scheme']['variant'] or stage['scheme']['dtype']} ({stage['scheme']['engine']})"
    changed = [
        f"{name} {change['difference']:+.4f} (p = {change['p_value']:.2g})"
        for name, change in work["changes"].items()
    ]
    return [
        f"reranked: the first {stage['depth']:,} of {stage['first_stage']} by {work['reranker']}: {scheme} "
        f"on {stage['device']}, {work['pairs']:,} pairs in {work['rerank_seconds']:.1f} s.",
        f"  Against {stage['first_stage']}, by a paired randomisation test: {', '.join(changed)}.",
    ]
