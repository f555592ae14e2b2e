"""`tercet merge`: models merged by a recipe, or a recipe checked."""

from __future__ import annotations

__all__ = ["merge"]

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tercet.cli import options as shared
from tercet.cli.commands import command
from tercet.errors import InputError

if TYPE_CHECKING:
    from tercet.workflows.merge import MergeCheck, Merged


@command.register("merge")
def merge(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG OUT | check CONFIG",
            help="A recipe and a new folder; or check and a recipe, to see what it would do.",
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
    shard_size: Annotated[float, typer.Option(metavar="GB", min=0.000001, help="Most of one file.")] = 5.0,
    token: shared.Token = None,
    offline: shared.Offline = False,
    yes: shared.Yes = False,
    as_json: shared.Json = False,
) -> None:
    """Merge models by a recipe in mergekit's YAML: encoder, modules, heads, tokenizer and settings.

    Arithmetic is in float64, rounded once; peak memory does not grow with the models. OUT appears when all is
    written and was tried; it has a report of what rounding cost, and a card.

    Example:
    tercet merge merge.yml averaged
    tercet merge check merge.yml --json
    """
    from tercet.cli.progress import Progress
    from tercet.workflows.merge import check_merge
    from tercet.workflows.merge import merge as run

    checking = arguments[0] == "check"
    if len(arguments) != 2:
        raise InputError(
            "Give a recipe and the folder of the result: tercet merge CONFIG OUT; "
            "or tercet merge check CONFIG."
        )
    confirm = shared.confirmation("A model of the recipe", yes=yes)
    if checking:
        check = check_merge(arguments[1], token=token, local_files_only=offline, confirm=confirm)
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
            token=token,
            local_files_only=offline,
            max_shard_bytes=int(shard_size * 1e9),
            confirm=confirm,
            progress=progress,
        )
    if as_json:
        found = {"folder": str(merged.folder), "tried": merged.tried, **merged.report.total.to_json()}
        print(json.dumps({**found, "notes": list(merged.report.notes)}, indent=2, ensure_ascii=False))
    print(_done_page(merged, Path(arguments[1])), file=sys.stderr)


def _check_page(check: MergeCheck) -> str:
    from tercet.precision.footprint import show_bytes

    lines = [f"{check.method} of {len(check.models)} models, settings of {check.donor}:"]
    lines += [f"  {name}  {show_bytes(size)}" for name, size in check.models.items()]
    formats = ", ".join(f"{count:,} numbers in {dtype}" for dtype, count in check.dtypes.items())
    lines.append(f"{check.tensors} tensors, {formats}: {show_bytes(check.written_bytes)} to write.")
    lines += [f"- {note}" for note in check.notes]
    return "\n".join(lines)


def _done_page(merged: Merged, out: Path) -> str:
    total = merged.report.total
    lines = [
        f"{out}: {len(merged.report.tensors)} tensors in {total.dtype}. Rounding changed the result by "
        f"{total.relative_error:.2e} of its length, {total.delta_error:.2e} of what the merge changed."
    ]
    if total.overflowed or total.flushed:
        lines.append(f"{total.overflowed:,} beyond the range, {total.flushed:,} flushed to zero.")
    lines += [f"- {note}" for note in merged.report.notes]
    return "\n".join([*lines, merged.tried])
