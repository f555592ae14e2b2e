"""`tercet plan`: where and in what format a model would run here, and why."""

from __future__ import annotations

__all__ = ["plan"]

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tercet.cli import options as shared
from tercet.cli.commands import command


@command.register("plan")
def plan(
    model: Annotated[
        str, typer.Argument(metavar="FOLDER|ID|minilm", help="A folder, a hub id, or the packaged minilm.")
    ],
    precision: shared.PrecisionWish = "auto",
    tolerance: shared.Tolerance = None,
    device: shared.Device = None,
    outputs: Annotated[
        str | None, typer.Option(metavar="LIST", help="Of dense, sparse, multivector; all by default.")
    ] = None,
    batch_tokens: shared.BatchTokens = None,
    max_length: shared.MaxLength = None,
    output_dtype: Annotated[
        str | None, typer.Option(metavar="DTYPE", help="Of the vectors; float32 by default.")
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(metavar="MODE", help="Instead of the checkpoint's: cls, mean, cls+mean, ...")
    ] = None,
    save_plan: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the plan here, for `tercet embed --plan` or `rerank --plan`."
        ),
    ] = None,
    revision: shared.Revision = None,
    token: shared.Token = None,
    offline: shared.Offline = False,
    yes: shared.Yes = False,
    as_json: shared.Json = False,
) -> None:
    """Show where and in what format a model would run here, its predicted memory, and why.

    Reads configurations and headers alone, no weight. A reranker is planned as `tercet rerank` would load it;
    --outputs, --pooling and --output-dtype mean nothing to it.

    Example:
    tercet plan minilm
    tercet plan minilm --precision float16 --json
    tercet plan minilm --tolerance 5e-4
    """
    from tercet.planner import plan as make_plan

    made = make_plan(
        model,
        precision=precision,
        device=device,
        outputs=None if outputs is None else shared.parse_outputs(outputs),
        revision=revision,
        token=token,
        local_files_only=offline,
        max_length=max_length,
        pooling=pooling,
        token_budget=batch_tokens,
        output_dtype=output_dtype,
        tolerance=tolerance,
        confirm=shared.confirmation(model, yes=yes),
    )
    print(json.dumps(made.to_json(), indent=2) if as_json else made.page())
    if save_plan is not None:
        made.save(save_plan)
        print(f"saved in {save_plan}", file=sys.stderr)
