"""`tercet merge`: models merged by a recipe, or a recipe checked."""

from __future__ import annotations

__all__ = ["merge"]

import json
import sys
from contextlib import ExitStack
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tercet.cli import options as shared
from tercet.cli.commands import command
from tercet.errors import InputError

if TYPE_CHECKING:
    from tercet.workflows.merge import Merged
    from tercet.workflows.merge_check import MergeCheck

_STATISTICS = "Statistics"
_SHARD_GIGABYTES = 5.0


@command.register("merge")
def merge(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG OUT | check CONFIG [OUT] | statistics MODEL TEXTS OUT",
            help="A recipe and a new folder; or check and a recipe, to see what it would do and need; or "
            "statistics, a model, texts and a .safetensors file, for the methods regmean and fisher.",
        ),
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what OUT holds, all of it, when the merge is good.")
    ] = False,
    allow_overflow: Annotated[
        bool,
        typer.Option(
            "--allow-overflow", help="Write the largest number for results beyond the format's range."
        ),
    ] = False,
    no_try: Annotated[
        bool, typer.Option("--no-try", help="Do not load the result and give it ten texts.")
    ] = False,
    audit: Annotated[
        str | None,
        typer.Option(
            metavar="TEXTS", help="Compare vectors and rankings with the parents', on a .jsonl or .txt file."
        ),
    ] = None,
    shard_size: Annotated[
        float, typer.Option(metavar="GB", min=0.000001, help="Most of one file.")
    ] = _SHARD_GIGABYTES,
    kinds: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="gram for regmean, fisher for fisher; both by default.",
            rich_help_panel=_STATISTICS,
        ),
    ] = None,
    max_texts: Annotated[
        int | None,
        typer.Option(min=1, help="Of the file, evenly spread; 1000 by default.", rich_help_panel=_STATISTICS),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Queries that choose among the same passages; 16 by default.",
            rich_help_panel=_STATISTICS,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Similarities are divided by it; 0.05 by default.", rich_help_panel=_STATISTICS),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most tokens of a text; the model's own limit by default.",
            rich_help_panel=_STATISTICS,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of random signs; 0 by default.", rich_help_panel=_STATISTICS)
    ] = None,
    token: shared.Token = None,
    offline: shared.Offline = False,
    yes: shared.Yes = False,
    as_json: shared.Json = False,
) -> None:
    """Merge models by a recipe in mergekit's YAML: encoder, modules, heads, tokenizer and settings.

    Arithmetic is in float64, rounded once; peak memory does not grow with the models. OUT appears when all is
    written and was tried; it has a report of what rounding cost, and a card.

    Example:
    tercet merge merge.yml averaged --audit docs.jsonl
    tercet merge check merge.yml --json
    tercet merge statistics merged docs.jsonl merged.safetensors --max-texts 500
    """
    from tercet.cli.progress import Progress
    from tercet.workflows.merge import merge as run
    from tercet.workflows.merge_check import check_merge

    options = {
        "kinds": None if kinds is None else shared.parse_names(kinds),
        "max_texts": max_texts,
        "group_size": group_size,
        "temperature": temperature,
        "max_length": max_length,
        "seed": seed,
    }
    given = {name: value for name, value in options.items() if value is not None}
    merging = {
        "--allow-overflow": allow_overflow,
        "--no-try": no_try,
        "--audit": audit is not None,
        "--shard-size": shard_size != _SHARD_GIGABYTES,
        "--overwrite": overwrite and arguments[0] == "check",
    }
    idle = [option for option, wanted in merging.items() if wanted]
    if idle and arguments[0] in ("check", "statistics"):
        raise InputError(f"{idle[0]} has no meaning for tercet merge {arguments[0]}. Leave it out.")
    if arguments[0] == "statistics":
        _statistics(
            arguments[1:], given, overwrite=overwrite, token=token, offline=offline, yes=yes, as_json=as_json
        )
        return
    if given:
        name = next(iter(given)).replace("_", "-")
        raise InputError(f"--{name} belongs to tercet merge statistics. Leave it out.")
    checking = arguments[0] == "check"
    if len(arguments) != 2 and not (checking and len(arguments) == 3):
        raise InputError(
            "Give a recipe and the folder of the result: tercet merge CONFIG OUT; "
            "tercet merge check CONFIG [OUT]; or tercet merge statistics MODEL TEXTS OUT."
        )
    confirm = shared.confirmation("A model of the recipe", yes=yes)
    if checking:
        place = arguments[2] if len(arguments) == 3 else None
        check = check_merge(arguments[1], place, token=token, local_files_only=offline, confirm=confirm)
        print(json.dumps(check.to_json(), indent=2, ensure_ascii=False) if as_json else _check_page(check))
        return
    with ExitStack() as stack:
        bar = stack.enter_context(Progress("Merging", measurable=True, unit="MB"))
        reached = 0

        def progress(written: int, total: int) -> None:
            nonlocal reached
            megabytes = written // 1_000_000
            bar.advance(max(0, megabytes - reached), 0, written / max(total, 1))
            reached = megabytes

        merged = run(
            arguments[0],
            arguments[1],
            overwrite=overwrite,
            allow_overflow=allow_overflow,
            try_out=not no_try,
            audit=audit,
            token=token,
            local_files_only=offline,
            max_shard_bytes=int(shard_size * 1e9),
            confirm=confirm,
            progress=progress,
        )
    if as_json:
        found = {"folder": str(merged.folder), "tried": merged.tried, **merged.report.total.to_json()}
        if merged.audit:
            found["audit"] = [one.to_json() for one in merged.audit]
        print(json.dumps({**found, "notes": list(merged.report.notes)}, indent=2, ensure_ascii=False))
    print(_done_page(merged, Path(arguments[1])), file=sys.stderr)


def _statistics(
    arguments: list[str],
    given: dict[str, Any],
    *,
    overwrite: bool,
    token: str | None,
    offline: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """What regmean and fisher need, into a file."""
    if len(arguments) != 3:
        raise InputError(
            "Give a model, its texts and the file to write: tercet merge statistics MODEL TEXTS "
            "OUT.safetensors"
        )
    from tercet.cli.progress import Progress
    from tercet.workflows.merge_statistics import merge_statistics

    model, texts, out = arguments
    with ExitStack() as stack:
        bar = stack.enter_context(Progress("Gathering", measurable=True, unit="texts"))
        reached = 0

        def progress(done: int, total: int) -> None:
            nonlocal reached
            bar.advance(done - reached, 0, done / max(total, 1))
            reached = done

        found = merge_statistics(
            model,
            texts,
            out,
            overwrite=overwrite,
            token=token,
            local_files_only=offline,
            confirm=shared.confirmation(model, yes=yes),
            progress=progress,
            **given,
        )
    if as_json:
        print(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    lines = []
    if "gram" in found.kinds:
        lines.append(f"Gram matrices of {found.texts:,} texts, {found.tokens:,} tokens.")
    if "fisher" in found.kinds:
        what = "queries with their passages" if found.pairs else "texts cut into halves"
        lines.append(f"Fisher information of {found.queries:,} {what}.")
    if found.too_short:
        lines.append(f"{found.too_short:,} texts are too short to be cut into halves.")
    if found.truncated:
        lines.append(f"{found.truncated:,} texts were cut at the longest length.")
    print("\n".join([f"{found.file}:", *lines]), file=sys.stderr)


def _check_page(check: MergeCheck) -> str:
    from tercet.precision.footprint import show_bytes

    models = "1 model" if len(check.models) == 1 else f"{len(check.models)} models"
    lines = [f"{check.method} of {models}, settings of {check.donor}:"]
    for name, model in check.models.items():
        facts = [show_bytes(model.bytes), " and ".join(model.dtypes), f"{model.layers} layers"]
        facts += [f"{model.vocabulary:,} tokens"] if model.vocabulary is not None else []
        facts += [f"{model.positions:,} positions"] if model.positions is not None else []
        lines.append(f"  {name}  {', '.join(facts)}")
    formats = ", ".join(f"{count:,} numbers in {dtype}" for dtype, count in check.dtypes.items())
    lines += [
        f"{check.tensors} tensors, {formats}: {show_bytes(check.written_bytes)} to write.",
        f"Disk: {show_bytes(check.disk_bytes)} with settings, {show_bytes(check.free_disk_bytes)} free.",
        f"Memory: {show_bytes(check.memory_bytes)} to merge, {show_bytes(check.trial_bytes)} for the weights "
        f"when it is tried out, {show_bytes(check.free_memory_bytes)} free.",
    ]
    lines += [f"- {note}" for note in check.notes]
    return "\n".join(lines)


def _done_page(merged: Merged, out: Path) -> str:
    total = merged.report.total
    lines = [
        f"{out}: {len(merged.report.tensors)} tensors in {total.dtype}. Rounding changed the result by "
        f"{total.relative_error:.2e} of its length"
        + (f", {total.delta_error:.2e} of what the merge changed." if isfinite(total.delta_error) else ".")
    ]
    if total.overflowed or total.flushed:
        lines.append(f"{total.overflowed:,} beyond the range, {total.flushed:,} flushed to zero.")
    if total.on_threshold:
        lines.append(f"{total.on_threshold:,} entries exactly on a threshold, of which the first were kept.")
    lines += [f"- {note}" for note in merged.report.notes]
    lines += [sentence for one in merged.audit for sentence in one.sentences()]
    return "\n".join([*lines, merged.tried])
