"""`tercet train`: a recipe in, a model out."""

from __future__ import annotations

__all__ = ["train"]

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from tercet.cli import options as shared
from tercet.cli.commands import command
from tercet.cli.progress import Progress


@command.register("train")
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE.yaml", help="What to train, on what, and how.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest state of the run.")] = False,
    device: Annotated[
        str | None, typer.Option(metavar="cpu", help="Stay on the CPU; a GPU is taken by default.")
    ] = None,
    as_json: shared.Json = False,
) -> None:
    """Fine-tune dense, sparse and multi-vector heads together, or a reranker, as a recipe says.

    The recipe and every line of its data are checked before the first step. The model is saved where the
    recipe's output.folder says; beside it `<folder>.run` holds states to go on from, and scalars.jsonl with
    the figures of every step.

    Example:
        tercet train recipe.yaml --device cpu
    """
    from tercet.training import trainer  # torch is slow to import
    from tercet.training.processes import leave_together

    shown: dict[str, Any] = {}
    with Progress("Training", measurable=True, unit="steps") as bar:

        def after(step: int, steps: int, scalars: Mapping[str, Any]) -> None:
            if "loss" in scalars:
                shown.update(scalars)
                peak = scalars["peak_bytes"] / 2**20
                bar.describe(f"Training, loss {scalars['loss']:.4f}, peak {peak:,.0f} MiB")
                bar.advance(1, int(scalars["tokens"]), step / steps)

        done = trainer.train(recipe, resume=resume, device=device, progress=after)
    if not leave_together():
        return
    if as_json:
        print(json.dumps({**asdict(done), "folder": str(done.folder)}))
    measured = "".join(f"; {name} {value:.4f}" for name, value in done.best.items() if name != "chosen")
    best = f" The best was at step {done.best_step:,}{measured}." if done.best else ""
    early = " It ended early: nothing got better." if done.stopped_early else ""
    peak = f" Peak memory {shown['peak_bytes'] / 2**20:,.0f} MiB." if shown else ""
    line = f"{done.folder}: {done.steps:,} steps, loss {done.loss:.4f}.{best}{early}{peak}"
    print(f"{line} Precision: {done.precision}.", file=sys.stderr)
