"""`tercet distill-scores`: a teacher's scores, for training data."""

from __future__ import annotations

__all__ = ["distill_scores"]

import json
import sys
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from tercet.cli import options as shared
from tercet.cli.commands import command
from tercet.cli.progress import Progress
from tercet.cli.training_files import check_output
from tercet.errors import InputError, nearest

if TYPE_CHECKING:
    from tercet.training.teaching import Teacher

_BY = ("dense", "sparse", "multivector", "hybrid")
_TEACHER, _TEXT = "Teacher", "Texts"


@command.register("distill-scores")
def distill_scores(
    data: Annotated[
        str,
        typer.Argument(
            help="Queries with their passages: .jsonl with query, pos and neg, or columns anchor, positive, "
            "negative (.jsonl, .csv, .parquet)."
        ),
    ],
    output: Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="A .jsonl file.")],
    reranker: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|ID", help="A cross-encoder that reads both texts.", rich_help_panel=_TEACHER
        ),
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|ID|minilm", help="A model whose vectors are compared.", rich_help_panel=_TEACHER
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --embedder: dense, sparse, multivector, or hybrid, which is the default.",
            rich_help_panel=_TEACHER,
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            metavar="D,S,M", help="Of dense, sparse and multivector in hybrid.", rich_help_panel=_TEACHER
        ),
    ] = "1,1,1",
    activation: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="With --reranker: of its logits, which are what students learn from.",
            rich_help_panel=_TEACHER,
        ),
    ] = "Identity",
    query_prompt: Annotated[
        str | None,
        typer.Option(
            help="Before each query without one of its own; the model's by default.", rich_help_panel=_TEXT
        ),
    ] = None,
    document_prompt: Annotated[
        str | None,
        typer.Option(help="With --embedder: before each passage.", rich_help_panel=_TEXT),
    ] = None,
    max_length: shared.MaxLength = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is there.")] = False,
    precision: shared.PrecisionWish = "auto",
    tolerance: shared.Tolerance = None,
    device: shared.Device = None,
    batch_tokens: shared.BatchTokens = None,
    plan: shared.PlanFile = None,
    revision: shared.Revision = None,
    token: shared.Token = None,
    offline: shared.Offline = False,
    yes: shared.Yes = False,
    as_json: shared.Json = False,
) -> None:
    """Score every passage of every query with a teacher, for a student to learn from.

    OUT has FlagEmbedding's form with pos_scores and neg_scores, which losses such as kl_div read.

    Example:
        tercet distill-scores pairs.jsonl -o scored.jsonl --reranker BAAI/bge-reranker-v2-m3
        tercet distill-scores pairs.jsonl -o scored.jsonl --embedder minilm --by dense --overwrite
    """
    if (reranker is None) == (embedder is None):
        raise InputError("Name one teacher: --reranker or --embedder.")
    if reranker is not None and (by is not None or document_prompt is not None):
        raise InputError("--by and --document-prompt belong to --embedder. Leave them out.")
    if by is not None and by not in _BY:
        raise InputError(f"--by is {by!r}. {nearest(by, _BY)}")
    shares = shared.parse_weights(weights)
    shared.refuse_with_plan(
        plan,
        precision=None if precision == "auto" else precision,
        tolerance=tolerance,
        device=device,
        batch_tokens=batch_tokens,
    )
    check_output(output, inputs=(data,), overwrite=overwrite)
    # torch is slow to import: after everything that can be checked without it
    from tercet import embedder as embedders
    from tercet import reranker as rerankers
    from tercet.training import teaching
    from tercet.training.data import open_source
    from tercet.training.prompting import prompted
    from tercet.training.recipe import DataRecipe

    source = open_source(DataRecipe(path=data, group_size=1))
    options = {
        "precision": precision,
        "tolerance": tolerance,
        "device": device,
        "revision": revision,
        "token": token,
        "local_files_only": offline,
        "max_length": max_length,
        "token_budget": batch_tokens,
        "plan": plan,
    }
    name = str(reranker or embedder)
    confirm = shared.confirmation(name, yes=yes)
    teacher: Teacher
    if reranker is not None:
        cross = rerankers.load_reranker(name, activation=activation, confirm=confirm, **options)  # type: ignore[arg-type]
        if cross.num_labels != 1:
            raise InputError(
                f"{name} gives {cross.num_labels} scores a pair, and it is not known which is to be learnt. "
                "Take a model with one."
            )
        scheme, checkpoint = cross.plan.scheme, cross.checkpoint
        teacher = partial(cross.score, prompt="")
    else:
        model = embedders.load(name, confirm=confirm, **options)  # type: ignore[arg-type]
        scheme, checkpoint = model.plan.scheme, model.checkpoint
        teacher = teaching.embedder_teacher(
            model, by or "hybrid", weights=shares, document_prompt=document_prompt
        )
    with closing(source), Progress("Scoring", measurable=True, unit="pairs") as bar:
        done = teaching.distill_scores(
            teacher, source, output, query=prompted(checkpoint, query_prompt), progress=bar.advance
        )
    if as_json:
        print(json.dumps(asdict(done)))
    for note in source.notes:
        print(note, file=sys.stderr)
    print(
        f"{output}: {done.queries:,} queries, {done.pairs:,} pairs scored by {name}: {scheme}.",
        file=sys.stderr,
    )
