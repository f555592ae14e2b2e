"""`tercet audit`: what each precision costs on the user's own texts, and which one to take."""

from __future__ import annotations

__all__ = ["audit"]

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tercet.cli import options as shared
from tercet.cli.commands import command
from tercet.cli.progress import Progress
from tercet.errors import InputError

if TYPE_CHECKING:
    from tercet.evaluation.audit_result import AuditResult

_TEXTS, _WHAT, _OUT = "Texts", "What is measured", "Output"


@command.register("audit")
def audit(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, a hub id, or minilm.")],
    texts: Annotated[
        str,
        typer.Option(
            metavar="FILE|FOLDER",
            help="Documents, .jsonl or .txt; or a collection's folder, with queries and judgements.",
            rich_help_panel=_TEXTS,
        ),
    ],
    queries: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Queries, .jsonl; without them documents stand in.",
            rich_help_panel=_TEXTS,
        ),
    ] = None,
    qrels: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Judgements, for metrics.", rich_help_panel=_TEXTS),
    ] = None,
    ignore_missing: Annotated[
        bool,
        typer.Option(
            "--ignore-missing",
            help="Leave out judgements of what is not there, and count them.",
            rich_help_panel=_TEXTS,
        ),
    ] = False,
    precisions: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Such as float32,float16,int8; all that run here but float64 by default.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    output_dtypes: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Of stored vectors: float16, int8, binary, ubinary.",
            rich_help_panel=_WHAT,
        ),
    ] = "float16,int8,binary",
    dimensions: Annotated[
        str,
        typer.Option(metavar="LIST", help="To shorten dense vectors to: 256,128", rich_help_panel=_WHAT),
    ] = "",
    budget: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="What a precision may cost: ndcg<=0.002, cosine<=1e-4, worst<=1e-3, overlap>=0.98; no "
            "visible loss by default.",
            rich_help_panel=_WHAT,
        ),
    ] = "cosine<=5e-6,worst<=5e-5",
    reference: Annotated[
        str,
        typer.Option(
            metavar="float64|float32",
            help="Of drift: float64 on a sample, or float32 on everything.",
            rich_help_panel=_WHAT,
        ),
    ] = "float64",
    sample: Annotated[
        int,
        typer.Option(min=1, help="Most documents and queries in float64.", rich_help_panel=_WHAT),
    ] = 256,
    metrics: Annotated[
        str,
        typer.Option(metavar="LIST", help="As of tercet evaluate.", rich_help_panel=_WHAT),
    ] = "ndcg@10,recall@100,mrr@10",
    outputs: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Of dense, sparse, multivector; all that the model makes by default.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            metavar="D,S,M", help="Of dense, sparse and multivector in their sum.", rich_help_panel=_WHAT
        ),
    ] = "1,1,1",
    query_prompt: Annotated[
        str | None,
        typer.Option(help="Before each query; the model's own by default.", rich_help_panel=_TEXTS),
    ] = None,
    document_prompt: Annotated[
        str | None,
        typer.Option(help="Before each document; the model's own by default.", rich_help_panel=_TEXTS),
    ] = None,
    max_length: shared.MaxLength = None,
    save: Annotated[
        bool,
        typer.Option(
            "--save",
            help="Remember the verdict: on this machine `auto` follows it for this model.",
            rich_help_panel=_OUT,
        ),
    ] = False,
    report: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Write a page with pictures there, and JSON.", rich_help_panel=_OUT
        ),
    ] = None,
    device: shared.Device = None,
    revision: shared.Revision = None,
    token: shared.Token = None,
    offline: shared.Offline = False,
    yes: shared.Yes = False,
    as_json: shared.Json = False,
) -> None:
    """Measure what each precision costs on your own texts, and recommend the fastest within a budget.

    Every scheme runs in a process of its own: drift of its vectors, change of its rankings and metrics, speed
    beside float32, seconds to load, peak memory. Also what narrower, shorter or fewer stored vectors cost,
    and which layers go wrong. An audit that was interrupted goes on from where it was.

    Example:
        tercet audit minilm --texts collection --precisions int8 --budget "overlap>=0.9"
    """
    wanted = None if precisions is None else shared.parse_names(precisions)
    shorter = []
    for name in shared.parse_names(dimensions):
        if not name.isdecimal() or int(name) < 1:
            raise InputError(f"--dimensions: {name!r} is no number of dimensions. Give some: 256,128")
        shorter.append(int(name))
    chosen = None if outputs is None else shared.parse_outputs(outputs)
    three = shared.parse_weights(weights)
    from tercet import evaluation  # torch is slow: after what can be checked without it

    with Progress("Auditing", measurable=True) as progress:
        result = evaluation.audit(
            model,
            texts,
            queries=queries,
            qrels=qrels,
            precisions=wanted,
            output_dtypes=shared.parse_names(output_dtypes),
            dimensions=shorter,
            budget=budget,
            reference=reference,
            sample=sample,
            metrics=shared.parse_names(metrics),
            outputs=chosen,
            weights=three,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            max_length=max_length,
            ignore_missing=ignore_missing,
            save=save,
            report=report,
            device=device,
            revision=revision,
            token=token,
            local_files_only=offline,
            confirm=shared.confirmation(model, yes=yes),
            progress=progress.advance,
        )
    if as_json:
        print(json.dumps(result.to_json(), ensure_ascii=False))
    else:
        _show(result)


def _show(result: AuditResult) -> None:
    """The figures as tables on the standard output, what they mean and the verdict on standard error."""
    from rich.console import Console
    from rich.table import Table

    from tercet.precision.footprint import show_bytes

    # As wide as the figures need: a terminal wraps lines better than a table wraps cells.
    console = Console(highlight=False, soft_wrap=True, width=240)
    names = list(dict.fromkeys(metric.name for row in result.rows for metric in row.metrics))
    table = Table(box=None, pad_edge=False)
    for title in ("scheme", "head", "mean 1-cos", "worst", "top 10 kept", *names, "speed", "memory"):
        table.add_column(title, justify="left" if title in ("scheme", "head") else "right")
    last = ""
    for row in result.rows:
        if row.failure is not None:
            table.add_row(row.name, "does not run here", style="dim")
            continue
        first = row.name != last
        changes = {metric.name: metric for metric in row.metrics}
        speed = "-" if row.relative_speed is None else f"{row.relative_speed:.2f}x{'' if row.quiet else '?'}"
        table.add_row(
            row.name if first else "",
            row.head,
            "-" if row.drift_mean is None else f"{row.drift_mean:.1e}",
            "-" if row.drift_worst is None else f"{row.drift_worst:.1e}",
            "-" if row.overlap_at_10 is None else f"{row.overlap_at_10:.4f}",
            *(
                f"{changes[name].value:.4f} ({changes[name].change:+.4f})"
                for name in names
                if name in changes
            ),
            speed if first else "",
            show_bytes(row.peak_bytes) if first and row.peak_bytes is not None else "",
        )
        last = row.name
    console.print(table)
    if result.stored:
        stored = Table(box=None, pad_edge=False)
        for title in ("stored as", "head", "bytes a text", "top 10 kept", *names):
            stored.add_column(title, justify="left" if title in ("stored as", "head") else "right")
        for kept in result.stored:
            how = [kept.precision]
            how += [f"{kept.dimensions} dimensions"] if kept.head != "sparse" else []
            how += [f"1 vector for {kept.pool_factor:g}"] if kept.pool_factor != 1 else []
            how += ["rescored"] if kept.rescored else []
            moved = {metric.name: metric for metric in kept.metrics}
            stored.add_row(
                ", ".join(how),
                kept.head,
                f"{kept.bytes_per_text:,.0f}",
                f"{kept.overlap_at_10:.4f}",
                *(f"{moved[name].value:.4f} ({moved[name].change:+.4f})" for name in names if name in moved),
            )
        console.print()
        console.print(stored)
    for line in _sentences(result):
        print(line, file=sys.stderr)


def _sentences(result: AuditResult) -> list[str]:
    """What the figures are of, what goes wrong where, and the verdict."""
    texts = result.texts
    lines = [
        f"{result.model} on {texts['name']}: {texts['documents']:,} documents, {texts['queries']:,} queries, "
        f"{result.machine['name']}, {result.machine['threads']} threads, torch {result.versions['torch']}; "
        f"{result.seconds:.0f} s."
    ]
    lines += [f"  {note}" for note in result.notes]
    lines += [f"  {layer.sentence}." for layer in result.layers if layer.unsafe]
    lines += [
        f"  {tensor.name}: {tensor.overflow:,} of {tensor.numbers:,} weights are infinite in {tensor.format}."
        for tensor in result.tensors
        if tensor.overflow
    ]
    lines += [f"  {sentence}" for sentence in result.verdict.others]
    lines.append(f"Verdict: {result.verdict.reason}")
    return lines
