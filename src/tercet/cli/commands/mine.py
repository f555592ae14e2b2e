"""`tercet mine`: hard negatives for training data."""

from __future__ import annotations

__all__ = ["mine"]

import json
import sys
from contextlib import closing
from dataclasses import asdict
from typing import Annotated, cast

import typer

from tercet.cli import options as shared
from tercet.cli.commands import command
from tercet.cli.progress import Progress
from tercet.cli.training_files import check_output
from tercet.errors import InputError

_DATA, _RANKS, _TEXT = "Data", "Which texts become negatives", "Texts"


@command.register("mine")
def mine(
    data: Annotated[
        str,
        typer.Argument(
            help="Queries with what answers them: .jsonl with query and pos, or columns anchor and positive "
            "(.jsonl, .csv, .parquet)."
        ),
    ],
    output: Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="A .jsonl file.")],
    model: shared.Model = "BAAI/bge-m3",
    pool: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Texts to find negatives among (.txt, .jsonl, .csv, .parquet); DATA's own by default.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    pool_column: Annotated[
        str | None,
        typer.Option(help="Of the texts; text, or the only one, by default.", rich_help_panel=_DATA),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT if it is there.", rich_help_panel=_DATA)
    ] = False,
    by: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="dense, sparse, multivector, hybrid or rrf.", rich_help_panel=_RANKS
        ),
    ] = "dense",
    ranks: Annotated[
        str,
        typer.Option(
            metavar="FIRST-LAST",
            help="From this rank up to before that one, from 0, without query and positives.",
            rich_help_panel=_RANKS,
        ),
    ] = "10-210",
    number: Annotated[int, typer.Option(min=1, help="Of each query, at most.", rich_help_panel=_RANKS)] = 15,
    margin: Annotated[
        float | None,
        typer.Option(
            help="A negative scores at least so much less than the worst positive.", rich_help_panel=_RANKS
        ),
    ] = None,
    relative_margin: Annotated[
        float | None,
        typer.Option(help="The same as a part of its score: 0.05 for 95 %.", rich_help_panel=_RANKS),
    ] = None,
    max_score: Annotated[
        float | None, typer.Option(help="A negative scores at most this.", rich_help_panel=_RANKS)
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="A negative scores at least this.", rich_help_panel=_RANKS)
    ] = None,
    sampling: Annotated[
        str, typer.Option(metavar="random|top", help="Which of those ranks.", rich_help_panel=_RANKS)
    ] = "random",
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.", rich_help_panel=_RANKS)] = 0,
    weights: Annotated[
        str,
        typer.Option(
            metavar="D,S,M", help="Of dense, sparse and multivector in hybrid.", rich_help_panel=_RANKS
        ),
    ] = "1,1,1",
    query_prompt: Annotated[
        str | None,
        typer.Option(help="Before each query; the model's own by default.", rich_help_panel=_TEXT),
    ] = None,
    document_prompt: Annotated[
        str | None, typer.Option(help="Before each text; the model's own by default.", rich_help_panel=_TEXT)
    ] = None,
    max_length: shared.MaxLength = None,
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
    """Find hard negatives: texts that a model ranks high for a query, and that do not answer it.

    OUT has FlagEmbedding's form, a line a query: query, pos, neg. Texts that answer a query without being
    marked are kept out by --margin or --relative-margin, which compare a text's score with that of the
    query's own positives. The same model, files, options and seed write the same file.

    Example:
        tercet mine pairs.jsonl -o mined.jsonl --pool docs.jsonl --model minilm --ranks 0-50
    """
    first, last = _ranks(ranks)
    shares = shared.parse_weights(weights)
    shared.refuse_with_plan(
        plan,
        precision=None if precision == "auto" else precision,
        tolerance=tolerance,
        device=device,
        batch_tokens=batch_tokens,
    )
    check_output(output, inputs=(data, pool), overwrite=overwrite)
    # torch is slow to import: after everything that can be checked without it
    from tercet import embedder
    from tercet.storage.texts import read_texts
    from tercet.training import mining
    from tercet.training.data import open_source
    from tercet.training.recipe import DataRecipe

    how = mining.Mining(
        by=cast(mining.By, by),
        first=first,
        last=last,
        number=number,
        margin=margin,
        relative_margin=relative_margin,
        max_score=max_score,
        min_score=min_score,
        sampling=cast(mining.Sampling, sampling),
        seed=seed,
        weights=shares,
    )
    source = open_source(DataRecipe(path=data, group_size=1))
    loaded = embedder.load(
        model,
        precision=precision,
        tolerance=tolerance,
        device=device,
        revision=revision,
        token=token,
        local_files_only=offline,
        max_length=max_length,
        token_budget=batch_tokens,
        plan=plan,
        confirm=shared.confirmation(model, yes=yes),
    )
    texts = None if pool is None else read_texts(pool, column=pool_column)
    with closing(source), Progress("Mining", measurable=True) as bar:
        found = mining.mine(
            loaded,
            source,
            output,
            how,
            pool=None if texts is None else (row.text for row in texts),
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            progress=bar.advance,
        )
    if texts is not None:
        texts.close()
    if as_json:
        print(json.dumps(asdict(found)))
    for note in source.notes:
        print(note, file=sys.stderr)
    print(
        f"{output}: {found.queries:,} queries with {found.negatives:,} negatives, of {found.pool:,} texts; "
        f"{found.short:,} queries found fewer than {number}, {found.left_out:,} none and were left out; "
        f"scores took out {found.filtered:,}. {loaded.plan.scheme} on {loaded.plan.device}.",
        file=sys.stderr,
    )


def _ranks(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit()):
        raise InputError(f"--ranks is {text!r}; give two whole numbers with - between, such as 10-210.")
    return int(first), int(last)
