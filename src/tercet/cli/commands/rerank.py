"""`tercet rerank`: documents by how well a cross-encoder finds them to answer a query."""

from __future__ import annotations

__all__ = ["rerank"]

import json
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tercet.cli import options as shared
from tercet.cli.commands import command
from tercet.cli.progress import Progress
from tercet.errors import InputError, OutputError
from tercet.storage.aside import Aside, Sink, Stdout, writing

if TYPE_CHECKING:
    from tercet.evaluation.second_stage import Found, Reranked
    from tercet.reranker import Reranker

_DATA, _OUT, _TEXT = "Data", "Output", "Pairs"
_RUN_SUFFIXES = (".trec", ".run")


@command.register("rerank")
def rerank(
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CANDIDATES | QUERY DOCUMENT... | COLLECTION",
            help="JSON lines of a query and its documents each; or the texts; with --run, the folder of its "
            "collection.",
        ),
    ] = None,
    model: shared.Model = "BAAI/bge-reranker-v2-m3",
    run: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A TREC run, whose documents to rank anew.", rich_help_panel=_DATA),
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="With --run: .jsonl, or .tsv of id and text.", rich_help_panel=_DATA
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="With --run: the documents, as BEIR's corpus.jsonl.", rich_help_panel=_DATA
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="Of COLLECTION, as in tercet evaluate; found out by default.", rich_help_panel=_DATA
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Of COLLECTION: test by default, else dev.", rich_help_panel=_DATA)
    ] = None,
    depth: Annotated[
        int,
        typer.Option(
            min=1,
            help="So many documents of each query of the run; the others are left out.",
            rich_help_panel=_DATA,
        ),
    ] = 100,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A .jsonl, .trec or .run file; JSON lines on the standard output by default.",
            rich_help_panel=_OUT,
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Keep so many of each query.", rich_help_panel=_OUT)
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT if it is there.", rich_help_panel=_OUT)
    ] = False,
    activation: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of logits: Sigmoid, Identity or another of torch.nn; the model's own by default.",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Put before each query.", rich_help_panel=_TEXT)] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most tokens of a pair; the model's own limit by default.", rich_help_panel=_TEXT
        ),
    ] = None,
    truncation: Annotated[
        str,
        typer.Option(
            metavar="longest_first|only_second",
            help="Cut the longer text of a pair first, as sentence-transformers does; or the query to 3/4, "
            "and then the document alone, as FlagEmbedding does.",
            rich_help_panel=_TEXT,
        ),
    ] = "longest_first",
    query_max_length: Annotated[
        int | None, typer.Option(min=1, help="With only_second, in place of 3/4.", rich_help_panel=_TEXT)
    ] = None,
    precision: shared.PrecisionWish = "auto",
    tolerance: shared.Tolerance = None,
    device: shared.Device = None,
    batch_tokens: shared.BatchTokens = None,
    plan: shared.PlanFile = None,
    revision: shared.Revision = None,
    token: shared.Token = None,
    offline: shared.Offline = False,
    yes: shared.Yes = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON on the standard output for QUERY DOCUMENT... too.")
    ] = False,
) -> None:
    """Rank documents by how well they answer a query, with a cross-encoder that reads both together.

    Takes a query and its documents as they stand; JSON lines of {"query": ..., "documents": [...]}; or a TREC
    run, such as `tercet evaluate --runs` writes, with the collection it was made on. A line of the output is
    {"id", "query", "documents": [{"id", "score", "text"}, ...]}, best first; .trec and .run are TREC runs,
    for `tercet evaluate --run`. OUT appears when it is whole, and not before.

    Example:
        tercet rerank "which city" "Paris is a city." "The cat." --model BAAI/bge-reranker-v2-m3
        tercet rerank candidates.jsonl -o ranked.jsonl --top-k 10
        tercet rerank collection --run run.trec -o reranked.trec --depth 100
    """
    arguments = texts or []
    shared.refuse_with_plan(
        plan,
        precision=None if precision == "auto" else precision,
        tolerance=tolerance,
        device=device,
        batch_tokens=batch_tokens,
    )
    _check_data(arguments, run=run, queries=queries, corpus=corpus, layout=layout, split=split)
    as_run = _check_output(output, inputs=(*arguments[:1], run, queries, corpus), overwrite=overwrite)
    if query_max_length is not None and truncation != "only_second":
        raise InputError("--query-max-length belongs to --truncation only_second. Leave it out, or say both.")
    # torch is slow to import: after everything that can be checked without it
    from tercet import reranker
    from tercet.evaluation import second_stage

    if run is not None:
        found: Iterable[Found] = _from_run(run, arguments, queries, corpus, layout, split, depth)
    elif len(arguments) > 1:
        documents = {str(place): text for place, text in enumerate(arguments[1:])}
        found = [second_stage.Found("1", arguments[0], documents)]
    else:
        found = second_stage.found_in_lines(Path(arguments[0]))
    loaded = reranker.load_reranker(
        model,
        precision=precision,
        tolerance=tolerance,
        device=device,
        revision=revision,
        token=token,
        local_files_only=offline,
        max_length=max_length,
        activation=activation,
        token_budget=batch_tokens,
        plan=plan,
        confirm=shared.confirmation(model, yes=yes),
    )
    if loaded.num_labels != 1:
        raise InputError(
            f"{model} gives {loaded.num_labels} scores a pair, and it is not known which ranks. "
            "Take a model with one."
        )
    score = partial(loaded.score, prompt=prompt, truncation=truncation, query_max_length=query_max_length)
    ranked = second_stage.rerank(score, found, top_k=top_k)
    if output is None and len(arguments) > 1 and not as_json:
        for one in ranked:
            for name, value in zip(one.ranking.ids, one.ranking.scores.tolist(), strict=True):
                print(f"{value:>9.4f}  {' '.join(one.found.documents[name].split())}")
        return
    total = len(found) if isinstance(found, list) else None
    _write(ranked, output, _run_line(loaded) if as_run else _json_line, loaded, total=total)


def _check_data(
    arguments: list[str],
    *,
    run: str | None,
    queries: str | None,
    corpus: str | None,
    layout: str | None,
    split: str | None,
) -> None:
    """An error where it is not clear what is to be ranked."""
    if run is None:
        for name, value in (("queries", queries), ("corpus", corpus), ("layout", layout), ("split", split)):
            if value is not None:
                raise InputError(f"--{name} belongs to --run, which says what each query found. Add it.")
        if not arguments:
            raise InputError(
                "Nothing to rank: give a file of candidates, a query and documents, or --run with its "
                "collection."
            )
        if len(arguments) == 1 and not Path(arguments[0]).is_file():
            raise InputError(
                f"{arguments[0]!r} alone is taken for a file of candidates, and there is no such file. To "
                "rank texts, give a query and one or more documents; for a collection, add --run."
            )
        return
    if not Path(run).is_file():
        raise InputError(
            f"{run}: no such file. Give a run as TREC has it: query Q0 document rank score name."
        )
    named = queries is not None and corpus is not None
    if (queries is None) != (corpus is None) or named == bool(arguments) or len(arguments) > 1:
        raise InputError(
            "With --run, say where its texts are: the folder of the collection, or --queries and --corpus."
        )
    if named and (layout is not None or split is not None):
        raise InputError("--layout and --split belong to the folder of a collection. Leave them out.")


def _check_output(output: str | None, *, inputs: Iterable[str | None], overwrite: bool) -> bool:
    """Whether the output is a run; an error where it cannot be written under that name."""
    if output is None:
        return False
    path = Path(output)
    if path.suffix not in (".jsonl", *_RUN_SUFFIXES):
        raise OutputError(f"{output}: the suffix does not say the format. Use .jsonl, .trec or .run.")
    if path.is_dir():
        raise OutputError(f"{output}: is a folder. Give the name of a file in it.")
    if path.exists():
        if any(one is not None and Path(one).exists() and path.samefile(one) for one in inputs):
            raise OutputError(f"{output}: is an input itself. Give the output another name.")
        if not overwrite:
            raise OutputError(f"{output}: is there already. Say --overwrite, or give another name.")
    return path.suffix in _RUN_SUFFIXES


def _from_run(
    run: str,
    arguments: list[str],
    queries: str | None,
    corpus: str | None,
    layout: str | None,
    split: str | None,
    depth: int,
) -> list[Found]:
    from tercet.evaluation import readers
    from tercet.evaluation.layouts import parts_of
    from tercet.evaluation.runs import read_run
    from tercet.evaluation.second_stage import found_in_run

    ranked = read_run(run)
    if queries is not None and corpus is not None:
        table = queries.removesuffix(".gz").endswith((".tsv", ".txt"))
        asked = readers.tab_separated(Path(queries)) if table else readers.queries(Path(queries))
        return found_in_run(ranked, asked(), readers.documents([Path(corpus)])(), depth=depth, where=run)
    parts = parts_of(arguments[0], layout_name=layout, split=split)
    return found_in_run(ranked, parts.queries(), parts.documents(), depth=depth, where=run)


def _write(
    ranked: Iterable[Reranked],
    output: str | None,
    line: Callable[[Reranked], str],
    model: Reranker,
    *,
    total: int | None,
) -> None:
    sink: Sink = Stdout() if output is None else Aside(Path(output))
    queries = 0
    with ExitStack() as stack:
        stack.callback(sink.discard)
        bar = Progress("Reranking", measurable=total is not None, unit="pairs")
        if output is not None:  # else lines appear themselves
            stack.enter_context(bar)
        for one in ranked:
            with writing(sink.path):
                sink.file.write(line(one).encode())
            queries += 1
            bar.advance(len(one.found.documents), 0, None if total is None else queries / total)
        sink.commit()
    print(
        f"{queries:,} queries, {bar.texts:,} pairs in {bar.seconds:.1f} s, by "
        f"{model.checkpoint.name}: {model.plan.scheme} on {model.plan.device}.",
        file=sys.stderr,
    )


def _json_line(one: Reranked) -> str:
    documents = [
        {"id": name, "score": float(f"{score:.9g}"), "text": one.found.documents[name]}
        for name, score in zip(one.ranking.ids, one.ranking.scores.tolist(), strict=True)
    ]
    line = {"id": one.found.id, "query": one.found.query, "documents": documents}
    return json.dumps(line, ensure_ascii=False) + "\n"


def _run_line(model: Reranker) -> Callable[[Reranked], str]:
    from tercet.evaluation.runs import run_lines

    system = "_".join(Path(model.checkpoint.name).name.split()) or "tercet"
    return lambda one: run_lines(one.found.id, one.ranking, system)
