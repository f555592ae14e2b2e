"""`tercet plan`: where and in what format a model would run here, and why."""

from __future__ import annotations

__all__ = ["plan"]

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tercet.cli.commands import command


@command.register("plan")
def plan(
    model: Annotated[str, typer.Argument(help="A folder, a hub id, or minilm for the packaged model.")],
    precision: Annotated[str, typer.Option(help="auto, checkpoint, or a dtype such as float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; the best by default.")] = None,
    outputs: Annotated[str | None, typer.Option(help="Of dense,sparse,multivector; all by default.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Most tokens in one forward.", min=1)] = None,
    max_length: Annotated[int | None, typer.Option(help="Longest text, in tokens.", min=1)] = None,
    output_dtype: Annotated[str | None, typer.Option(help="Of the vectors; float32 by default.")] = None,
    pooling: Annotated[str | None, typer.Option(help="Instead of the checkpoint's: cls, mean, ...")] = None,
    save_plan: Annotated[Path | None, typer.Option(help="Write the plan here, for --plan.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    token: Annotated[str | None, typer.Option(help="Token of the hub.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no network.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Fetch gigabytes without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show where and in what format a model would run here, its predicted memory, and a reason for each
    choice.

    Reads configurations and headers alone, no weight.

    Example:
    tercet plan minilm
    tercet plan minilm --precision float16 --json
    """
    from tercet.planner import plan as make_plan

    made = make_plan(
        model,
        precision=precision,
        device=device,
        outputs=None if outputs is None else [name.strip() for name in outputs.split(",") if name.strip()],
        revision=revision,
        token=token,
        local_files_only=offline,
        max_length=max_length,
        pooling=pooling,
        token_budget=batch_tokens,
        output_dtype=output_dtype,
        confirm=lambda size: yes or _asked(size),
    )
    print(json.dumps(made.to_json(), indent=2) if as_json else made.page())
    if save_plan is not None:
        made.save(save_plan)
        print(f"saved in {save_plan}", file=sys.stderr)


def _asked(size: int) -> bool:
    """Whether the person at the terminal agrees to fetch so many bytes; nobody there is a no."""
    if not sys.stdin.isatty():
        return False
    return typer.confirm(
        f"This model's format shows its headers only with its weights: fetch {size / 1e9:.1f} GB?", err=True
    )
