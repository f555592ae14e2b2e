"""`tercet evaluate`: how well a model finds, compares or reranks the texts of a data set."""

from __future__ import annotations

__all__ = ["evaluate"]

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tercet.cli import options as shared
from tercet.cli.commands import command
from tercet.cli.evaluation_report import show_report
from tercet.cli.progress import Progress
from tercet.errors import InputError

if TYPE_CHECKING:
    from tercet.embedder import Embedder
    from tercet.reranker import Reranker

_DATA, _METRICS, _SEARCH, _TEXT, _OUT = "Data", "Metrics", "Search", "Texts and vectors", "Output"
_SECOND = "Second stage"


@command.register("evaluate")
def evaluate(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL DATASET",
            help="A folder, hub id or minilm; and a folder or file of data. With --run, DATASET alone.",
        ),
    ],
    run: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Score this TREC run, and load no model.", rich_help_panel=_DATA),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="retrieval, similarity or reranking, where the data does not say it.", rich_help_panel=_DATA
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="beir, flagembedding, trec, miracl, mldr, candidates; found out by default.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="test by default, else dev.", rich_help_panel=_DATA)
    ] = None,
    ignore_missing: Annotated[
        bool,
        typer.Option(
            "--ignore-missing",
            help="Leave out judgements of what is not there, and count them.",
            rich_help_panel=_DATA,
        ),
    ] = False,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Of ndcg, recall, mrr, map, precision, hit_rate, each with @K: ndcg@10,recall@100",
            rich_help_panel=_METRICS,
        ),
    ] = None,
    gain: Annotated[
        str,
        typer.Option(
            metavar="linear|exponential",
            help="Of a grade in nDCG; linear is trec_eval's.",
            rich_help_panel=_METRICS,
        ),
    ] = "linear",
    relevance_level: Annotated[
        int,
        typer.Option(
            min=1, help="Lowest grade that is relevant to binary metrics.", rich_help_panel=_METRICS
        ),
    ] = 1,
    complete: Annotated[
        bool,
        typer.Option(
            "--complete",
            help="With --run: judged queries that it does not have count as 0.",
            rich_help_panel=_METRICS,
        ),
    ] = False,
    outputs: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Of dense, sparse, multivector; all that the model makes by default.",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    depth: Annotated[
        int, typer.Option(min=1, help="So many documents of each query.", rich_help_panel=_SEARCH)
    ] = 1000,
    weights: Annotated[
        str,
        typer.Option(
            metavar="D,S,M", help="Of dense, sparse and multivector in their sums.", rich_help_panel=_SEARCH
        ),
    ] = "1,1,1",
    reduction: Annotated[
        str,
        typer.Option(
            metavar="mean|sum", help="Of late interaction, over query tokens.", rich_help_panel=_SEARCH
        ),
    ] = "mean",
    rrf_k: Annotated[
        float, typer.Option(min=0, help="Of reciprocal-rank fusion.", rich_help_panel=_SEARCH)
    ] = 60.0,
    remove_query: Annotated[
        bool,
        typer.Option(
            "--remove-query",
            help="A document with the query's own id is not to be found.",
            rich_help_panel=_SEARCH,
        ),
    ] = False,
    reranker: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|ID",
            help="A cross-encoder that ranks anew what the model found.",
            rich_help_panel=_SECOND,
        ),
    ] = None,
    rerank_depth: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="So many documents of each query, 100 by default; the others keep their order below.",
            rich_help_panel=_SECOND,
        ),
    ] = None,
    first_stage: Annotated[
        str | None,
        typer.Option(
            metavar="SYSTEM",
            help="Whose documents: dense, ..., hybrid or rrf; of several systems hybrid by default.",
            rich_help_panel=_SECOND,
        ),
    ] = None,
    reranker_precision: Annotated[
        str | None,
        typer.Option(
            metavar="DTYPE", help="Of the reranker, as --precision; auto by default.", rich_help_panel=_SECOND
        ),
    ] = None,
    query_prompt: Annotated[
        str | None,
        typer.Option(help="Before each query; the model's own by default.", rich_help_panel=_TEXT),
    ] = None,
    document_prompt: Annotated[
        str | None,
        typer.Option(help="Before each document; the model's own by default.", rich_help_panel=_TEXT),
    ] = None,
    max_length: shared.MaxLength = None,
    dimensions: Annotated[
        int | None,
        typer.Option(min=1, help="Keep so many, and renormalise (Matryoshka models).", rich_help_panel=_TEXT),
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option(
            "--normalize/--no-normalize", help="By default as the model says.", rich_help_panel=_TEXT
        ),
    ] = None,
    runs: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Write a TREC run of each system there.", rich_help_panel=_OUT),
    ] = None,
    refresh: Annotated[
        bool,
        typer.Option("--refresh", help="Compute anew what was computed before.", rich_help_panel=_OUT),
    ] = False,
    per_query: Annotated[
        bool,
        typer.Option("--per-query", help="With --json: the values of each query too.", rich_help_panel=_OUT),
    ] = False,
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
    """Measure how well a model finds, compares or reranks the texts of a data set.

    Retrieval takes the folder of a collection (BEIR, MIRACL, MLDR, FlagEmbedding or TREC layout) and ranks by
    every output of the model, by their weighted sum and by rank fusion. Similarity takes pairs with gold
    scores (sentence1, sentence2, score), reranking JSON lines with query, pos and neg. Equal scores stand in
    trec_eval's order; values expected over all orders are shown where they differ. A result is kept, and
    shown again while nothing that decides it has changed. With --reranker, what was found is ranked anew by
    a cross-encoder and measured again, as the system "reranked".

    Example:
        tercet evaluate minilm collection --metrics ndcg@10,recall@100 --precision float32
        tercet evaluate minilm pairs.tsv --precision float32
        tercet evaluate collection --run run.trec --json
        tercet evaluate minilm collection --reranker BAAI/bge-reranker-v2-m3 --rerank-depth 50
    """
    names = None if metrics is None else [name for name in metrics.split(",") if name.strip()]
    if gain not in ("linear", "exponential"):
        raise InputError(f"--gain is {gain!r}; give linear or exponential.")
    if reduction not in ("mean", "sum"):
        raise InputError(f"--reduction is {reduction!r}; give mean or sum.")
    second: dict[str, object] = {
        "rerank_depth": rerank_depth,
        "first_stage": first_stage,
        "reranker_precision": reranker_precision,
    }
    _check_second_stage(reranker, second, run)
    ranked: dict[str, Any] = {"layout": layout, "split": split, "metrics": names, "gain": gain}
    ranked["relevance_level"] = relevance_level
    if run is not None:
        if len(arguments) != 1:
            raise InputError("With --run no model is asked: give the data set or its judgements alone.")
        from tercet.evaluation import evaluate_run_file

        report = evaluate_run_file(run, arguments[0], complete=complete, **ranked)
    else:
        if len(arguments) != 2:
            raise InputError(
                f"{len(arguments)} arguments were given; two are needed: MODEL DATASET, for example: "
                "tercet evaluate minilm my_collection. Or a run file with --run, and DATASET alone."
            )
        if complete:
            raise InputError("--complete belongs to --run: a model answers every judged query.")
        chosen = None if outputs is None else shared.parse_outputs(outputs)
        how = {
            **ranked,
            "task": task,
            "depth": depth,
            "weights": shared.parse_weights(weights),
            "reduction": reduction,
            "rrf_k": rrf_k,
            "remove_query": remove_query,
            "ignore_missing": ignore_missing,
            "query_prompt": query_prompt,
            "document_prompt": document_prompt,
            "max_length": max_length,
            "dimensions": dimensions,
            "normalize": normalize,
            "runs_folder": runs,
            "refresh": refresh,
            "rerank_depth": rerank_depth,
            "first_stage": first_stage,
        }
        shared.refuse_with_plan(
            plan,
            precision=None if precision == "auto" else precision,
            tolerance=tolerance,
            device=device,
            batch_tokens=batch_tokens,
        )
        from tercet import embedder, evaluation  # torch is slow: after what can be checked without it

        bars: list[Progress] = []

        def begin(what: str, unit: str) -> None:
            """A bar in place of the one before."""
            stack.close()
            bars.append(stack.enter_context(Progress(what, measurable=True, unit=unit)))

        def loaded() -> Embedder:
            """The model, once the data is known to be usable; the bar after all loading, which may ask."""
            model = embedder.load(
                arguments[0],
                precision=precision,
                tolerance=tolerance,
                device=device,
                outputs=chosen,
                revision=revision,
                token=token,
                local_files_only=offline,
                token_budget=batch_tokens,
                plan=plan,
                confirm=shared.confirmation(arguments[0], yes=yes),
            )
            if reranker is None:
                begin("Evaluating", "texts")
            return model

        def loaded_reranker() -> Reranker:
            from tercet.reranker import load_reranker

            assert reranker is not None
            second = load_reranker(
                reranker,
                precision=reranker_precision or "auto",
                device=device,
                token=token,
                local_files_only=offline,
                token_budget=batch_tokens,
                confirm=shared.confirmation(reranker, yes=yes),
            )
            begin("First stage", "texts")
            return second

        def reranked(pairs: int, done: float) -> None:
            if done == 0.0:
                begin("Second stage", "pairs")
            bars[-1].advance(pairs, 0, done)

        if reranker is not None:
            how["reranker"] = loaded_reranker
        with ExitStack() as stack:
            report = evaluation.evaluate(
                loaded,
                arguments[1],
                progress=lambda *done: bars[-1].advance(*done),
                rerank_progress=reranked,
                **how,
            )
    if as_json:
        print(json.dumps(report.to_json(per_query=per_query), ensure_ascii=False))
    else:
        show_report(report)


def _check_second_stage(reranker: str | None, options: dict[str, object], run: str | None) -> None:
    """An error for options of a second stage that is not there, or of a run, which has a verb of its own."""
    if reranker is None:
        for name, value in options.items():
            if value is not None:
                raise InputError(
                    f"--{name.replace('_', '-')} belongs to --reranker. Add it, or leave this out."
                )
    elif run is not None:
        raise InputError(
            "--reranker ranks anew what a model found here. Of a run: tercet rerank COLLECTION --run FILE -o "
            "reranked.trec, and then tercet evaluate COLLECTION --run reranked.trec."
        )
