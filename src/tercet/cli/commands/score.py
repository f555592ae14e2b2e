"""`tercet score`: how well pairs of texts match."""

from __future__ import annotations

__all__ = ["score"]

import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tercet.cli import options as shared
from tercet.cli.commands import command
from tercet.errors import InputError
from tercet.storage.lines import STDIN
from tercet.storage.texts import read_pairs

if TYPE_CHECKING:
    from tercet.embedder import Embedder
    from tercet.scoring import PairScores

_CHUNK_PAIRS = 64  # embedded together; queries that come more than once among them are embedded once


@command.register("score")
def score(
    texts: Annotated[
        list[str],
        typer.Argument(
            metavar="PAIRS | QUERY DOCUMENT...",
            help="A table with a query and a document a row (.jsonl, .csv, .tsv, .parquet, -), or the texts.",
        ),
    ],
    model: shared.Model = "BAAI/bge-m3",
    outputs: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help="Of dense, sparse, multivector; all that the model makes by default."
        ),
    ] = None,
    weights: Annotated[
        str, typer.Option(metavar="D,S,M", help="Of dense, sparse and multivector in the combined score.")
    ] = "1,1,1",
    format: Annotated[str | None, typer.Option(help="Of PAIRS, where its suffix does not say it.")] = None,
    query_column: Annotated[str, typer.Option(help="Of the queries in PAIRS.")] = "query",
    document_column: Annotated[str, typer.Option(help="Of the documents in PAIRS.")] = "document",
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
    json_lines: Annotated[bool, typer.Option("--json", help="Print a JSON object a pair.")] = False,
) -> None:
    """Score pairs of a query and a document.

    Dense: dot product. Sparse: dot product of the lexical weights. Multivector: mean over the query's tokens
    of the best match among the document's. Combined: (D·dense + S·sparse + M·multivector) / (D + S + M), of
    those that the model makes.

    Example:
        tercet score "What is BGE M3?" "An embedding model." "A river in France." --model minilm
        tercet score pairs.jsonl --model minilm --json
    """
    chosen = None if outputs is None else shared.parse_outputs(outputs)
    shares = shared.parse_weights(weights)
    shared.refuse_with_plan(
        plan,
        precision=None if precision == "auto" else precision,
        tolerance=tolerance,
        device=device,
        batch_tokens=batch_tokens,
    )
    pairs = _pairs(texts, format, (query_column, document_column))
    from tercet import embedder  # torch is slow to import: after everything that can be checked without it

    loaded = embedder.load(
        model,
        precision=precision,
        tolerance=tolerance,
        device=device,
        outputs=chosen,
        revision=revision,
        token=token,
        local_files_only=offline,
        max_length=max_length,
        token_budget=batch_tokens,
        plan=plan,
        confirm=shared.confirmation(model, yes=yes),
    )
    names = loaded.outputs if chosen is None else chosen
    if not json_lines:
        print("  ".join(f"{name:>11}" for name in (*names, "combined")))
    while chunk := list(islice(pairs, _CHUNK_PAIRS)):
        found = _scores(loaded, chunk, names, shares)
        columns = {name: getattr(found, name).tolist() for name in (*names, "combined")}
        for row, (query, document) in enumerate(chunk):
            values = {name: column[row] for name, column in columns.items()}
            if json_lines:
                print(json.dumps({"query": query, "document": document, **values}, ensure_ascii=False))
            else:
                figures = "  ".join(f"{value:>11.4f}" for value in values.values())
                print(_fitting(f"{figures}  {_excerpt(query)} ↔ {_excerpt(document)}"))
        sys.stdout.flush()


def _pairs(texts: list[str], format: str | None, columns: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """The pairs of a file, or the first text with each of the others; a missing file is an error now."""
    if len(texts) > 1:
        return iter([(texts[0], document) for document in texts[1:]])
    if texts[0] != STDIN and not Path(texts[0]).exists():
        raise InputError(
            f"{texts[0]!r} alone is taken for a file of pairs, and there is no such file. "
            "To score texts, give a query and one or more documents."
        )
    return read_pairs(texts[0], format=format, columns=columns)


def _scores(
    model: Embedder,
    pairs: Iterable[tuple[str, str]],
    outputs: tuple[str, ...],
    weights: tuple[float, float, float],
) -> PairScores:
    from tercet.scoring import score_pairs

    queries, documents = zip(*pairs, strict=True)
    places = {query: place for place, query in enumerate(dict.fromkeys(queries))}
    embedded = model.encode_query(list(places), outputs=outputs)
    return score_pairs(
        embedded[[places[query] for query in queries]],
        model.encode_document(list(documents), outputs=outputs),
        weights=weights,
    )


def _excerpt(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())


def _fitting(line: str) -> str:
    """The line, cut to the width of the terminal if there is one."""
    if not sys.stdout.isatty():
        return line
    width = shutil.get_terminal_size().columns
    return line if len(line) <= width else line[: width - 1] + "…"
