"""`tercet embed`: a file of texts in, a file of vectors out."""

from __future__ import annotations

__all__ = ["embed"]

import json
import sys
from collections import deque
from collections.abc import Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, cast

import typer

from tercet.cli import options as shared
from tercet.cli.commands import command
from tercet.cli.progress import Progress, peak_memory
from tercet.errors import InputError, PrecisionError, nearest
from tercet.precision.dtype import DType
from tercet.storage.texts import TextReader, read_texts
from tercet.storage.vectors import VectorWriter, check_output, open_writer

if TYPE_CHECKING:
    from tercet.embedder import Embedder

_IN, _OUT, _TEXT = "Input", "Output", "Texts and vectors"
_OnTruncate = Literal["cut", "error"]


class _How(TypedDict):
    """Options that decide what a vector is."""

    outputs: tuple[str, ...]
    prompt: str | None
    prompt_name: str | None
    dimensions: int | None
    normalize: bool | None
    task: str | None


@command.register("embed")
def embed(
    input: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help=".txt, .jsonl, .csv, .tsv (also .gz), .parquet, or - for stdin."
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="OUT", help=".parquet, .npz, .jsonl, or - for JSON lines on stdout."
        ),
    ],
    model: shared.Model = "BAAI/bge-m3",
    outputs: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Of dense, sparse, multivector, with commas between; by default dense, or what a model "
            "without dense vectors makes.",
        ),
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="Of the input, where its suffix does not say it.", rich_help_panel=_IN)
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(help="Of the texts; by default text, or the only one of strings.", rich_help_panel=_IN),
    ] = None,
    id_column: Annotated[
        str | None,
        typer.Option(help="Names the texts; by default they are numbered from 0.", rich_help_panel=_IN),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=0, help="At most so many texts.", rich_help_panel=_IN)
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Put before each text, as it is.", rich_help_panel=_TEXT)
    ] = None,
    prompt_name: Annotated[
        str | None, typer.Option(help="One of the model's own prompts.", rich_help_panel=_TEXT)
    ] = None,
    query: Annotated[
        bool,
        typer.Option(
            "--query", help="With the model's prompt for queries, or as its queries.", rich_help_panel=_TEXT
        ),
    ] = False,
    max_length: shared.MaxLength = None,
    on_truncate: Annotated[
        str,
        typer.Option(
            metavar="cut|error", help="What to do with a text that is too long.", rich_help_panel=_TEXT
        ),
    ] = "cut",
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
    output_dtype: Annotated[
        str | None, typer.Option(metavar="DTYPE", help="float32 (default) or float16.", rich_help_panel=_OUT)
    ] = None,
    keep_text: Annotated[
        bool, typer.Option("--keep-text", help="Store the texts beside their vectors.", rich_help_panel=_OUT)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT if it is there.", rich_help_panel=_OUT)
    ] = False,
    precision: shared.PrecisionWish = "auto",
    tolerance: shared.Tolerance = None,
    device: shared.Device = None,
    batch_tokens: shared.BatchTokens = None,
    plan: shared.PlanFile = None,
    save_plan: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Save the plan, for --plan.", rich_help_panel="Precision and speed"
        ),
    ] = None,
    revision: shared.Revision = None,
    token: shared.Token = None,
    offline: shared.Offline = False,
    yes: shared.Yes = False,
    json_summary: shared.Json = False,
) -> None:
    """Embed the texts of a file; the vectors and how they were made go into another.

    Memory stays the same however long the input is. OUT appears when it is whole, and not before.

    Example:
        tercet embed docs.jsonl -o docs.parquet --model minilm
        tercet embed queries.txt -o queries.npz --model minilm --query --output-dtype float16
        tercet embed docs.csv --column body -o docs.parquet --outputs dense,sparse,multivector
    """
    chosen = None if outputs is None else shared.parse_outputs(outputs)
    check_output(output, input=input, overwrite=overwrite)
    if output == "-" and json_summary:
        raise InputError("-o - and --json would both print to the standard output. Give OUT a name.")
    if query and (prompt is not None or prompt_name is not None):
        raise InputError("--query chooses a prompt: leave out --prompt and --prompt-name, or --query.")
    shared.refuse_with_plan(
        plan,
        precision=None if precision == "auto" else precision,
        tolerance=tolerance,
        device=device,
        batch_tokens=batch_tokens,
        output_dtype=output_dtype,
    )
    too_long = _on_truncate(on_truncate)
    dtype = None if output_dtype is None else _output_dtype(output_dtype)
    with read_texts(input, format=format, column=column, id_column=id_column, limit=limit) as reader:
        start = perf_counter()
        from tercet import embedder  # slow to import: after everything that can be checked without torch

        loaded = embedder.load(
            model,
            precision=precision,
            tolerance=tolerance,
            device=device,
            outputs=chosen or "usual",
            revision=revision,
            token=token,
            local_files_only=offline,
            max_length=max_length,
            token_budget=batch_tokens,
            output_dtype=dtype,
            plan=plan,
            confirm=shared.confirmation(model, yes=yes),
        )
        chosen = chosen or loaded.outputs[:1]
        load_seconds = perf_counter() - start
        print(
            f"{model}: {loaded.plan.scheme} on {loaded.plan.device}, loaded in {load_seconds:.1f} s",
            file=sys.stderr,
        )
        if save_plan is not None:
            loaded.plan.save(save_plan)
        how = _How(
            outputs=chosen,
            prompt=prompt,
            prompt_name="query" if query and "query" in loaded.checkpoint.prompts else prompt_name,
            dimensions=dimensions,
            normalize=normalize,
            task=_task(loaded, query),
        )
        provenance = loaded.provenance(**how)
        with open_writer(output, provenance=provenance, keep_text=keep_text, overwrite=overwrite) as writer:
            summary = _embed(reader, loaded, writer, how, too_long, keep_text)
    summary["peak_bytes"], summary["device_peak_bytes"] = peak_memory(loaded.plan.device)
    summary |= {"load_seconds": load_seconds, "model": model, "outputs": chosen, "written": output}
    if json_summary:
        print(json.dumps({**summary, "plan": loaded.plan.to_json()}))
    print(_sentence(summary), file=sys.stderr)


def _task(model: Embedder, query: bool) -> str | None:
    """What the texts are for, where that matters: in late interaction, and to routes that know of it."""
    checkpoint = model.checkpoint
    role = "query" if query else "document"
    if checkpoint.routes is not None and not query:
        return role if checkpoint.routes.named(role) is not None else None
    return None if checkpoint.late is None and checkpoint.routes is None else role


def _embed(
    reader: TextReader,
    model: Embedder,
    writer: VectorWriter,
    how: _How,
    on_truncate: _OnTruncate,
    keep_text: bool,
) -> dict[str, Any]:
    """Everything from the reader into the writer; the figures of the run."""
    waiting: deque[tuple[int | str, str, float | None]] = deque()

    def texts() -> Iterator[str]:
        for row in reader:
            waiting.append((row.id, row.text if keep_text else "", reader.done()))
            yield row.text

    cut = recomputed = 0
    with Progress("Embedding", measurable=reader.done() is not None) as progress:
        for part in model.stream(texts(), on_truncate=on_truncate, **how):
            rows = [waiting.popleft() for _ in range(len(part))]
            ids: Any = [row[0] for row in rows]
            writer.write(part, ids=ids, texts=[row[1] for row in rows] if keep_text else None)
            cut += int(part.truncated.sum())
            recomputed += int(part.recomputed.sum())
            progress.advance(len(part), int(part.num_tokens.sum()), rows[-1][2] if rows else None)
        if not progress.texts:
            writer.write(model.encode([], **how), texts=[] if keep_text else None)
    seconds = max(progress.seconds, 1e-9)
    return {
        "texts": progress.texts,
        "tokens": progress.tokens,
        "truncated": cut,
        "recomputed": recomputed,
        "seconds": seconds,
        "texts_per_second": progress.texts / seconds,
        "tokens_per_second": progress.tokens / seconds,
    }


def _sentence(summary: dict[str, Any]) -> str:
    """The figures of a run for people, on one line."""
    from tercet.precision.footprint import show_bytes

    on_device = summary["device_peak_bytes"]
    peak = show_bytes(summary["peak_bytes"]) + (
        "" if on_device is None else f" (device {show_bytes(on_device)})"
    )
    return (
        "{texts:,} texts, {tokens:,} tokens in {seconds:.1f} s: {texts_per_second:,.0f} texts/s, "
        "{tokens_per_second:,.0f} tokens/s; {truncated:,} cut, {recomputed:,} recomputed in float32; "
        "peak memory {peak}; written to {written}"
    ).format(**summary, peak=peak)


def _on_truncate(value: str) -> _OnTruncate:
    if value not in ("cut", "error"):
        raise InputError(f"--on-truncate is {value!r}. {nearest(value, ('cut', 'error'))}")
    return cast(_OnTruncate, value)


def _output_dtype(value: str) -> DType:
    dtype = DType.parse(value)
    if dtype not in (DType.FLOAT32, DType.FLOAT16):
        raise PrecisionError(
            f"--output-dtype {dtype}: vectors are written as float32 or float16; neither Arrow nor NumPy has "
            "bfloat16. Choose float32, which holds every bfloat16 exactly, or float16, which has its size."
        )
    return dtype
