"""The drift table: how far dense vectors move, scheme by scheme, and what that does to retrieval.

    python benchmarks/scheme_drift.py CRANFIELD --json drift.json
    python benchmarks/scheme_drift.py CRANFIELD --limit 100 --precision float16 --precision int8

CRANFIELD is a folder in BEIR's layout: corpus.jsonl {_id, title, text}, queries.jsonl {_id, text} and
qrels/test.tsv. float32 is compared with float64, every other scheme with float32. 1 - cosine is computed from
the difference of unit vectors, |a - b|^2 / 2, since 1 - a.b of nearly equal vectors is nothing but rounding.
A scheme that does not run on this machine has its line in the table too, with the reason.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import machine
import tercet
from report import table
from retrieval import GOALS, Change, Collection, compare, met, read_collection
from tercet.errors import PrecisionError

SCHEMES = ("float32", "float16", "bfloat16", "int8", "int8-fast")
COLUMNS = (
    "scheme",
    "ran as",
    "against",
    "mean 1 - cosine",
    "worst",
    "top-10 overlap",
    "nDCG@10",
    "difference",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="BEIR layout: corpus.jsonl, queries.jsonl, qrels/test.tsv")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", action="append", help=f"default: {', '.join(SCHEMES)}")
    parser.add_argument("--limit", type=int, help="documents at most, and the queries that they answer")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    options = parser.parse_args()
    if options.limit is not None and options.limit < 1:
        sys.exit(f"--limit is {options.limit}; it must be at least 1.")
    # That long texts are cut is how the model is used.
    logging.getLogger("tercet").setLevel(logging.ERROR)
    collection = read_collection(options.folder, options.limit)
    rows = measure(options.model, options.device, options.precision or SCHEMES, collection)
    facts = {
        "model": options.model,
        "device": options.device,
        "documents": len(collection.documents),
        "queries": len(collection.queries),
        "machine": machine.machine(),
        "versions": {"tercet": tercet.__version__, "torch": torch.__version__},
        "code": machine.code(),
    }
    print(page(rows, facts))
    if options.json is not None:
        goals = {scheme: asdict(limits) for scheme, limits in GOALS.items()}
        text = json.dumps({**facts, "goals": goals, "schemes": rows}, indent=1) + "\n"
        aside = options.json.with_name(f".{options.json.name}.part")
        aside.write_text(text, encoding="utf-8")
        aside.replace(options.json)


def measure(model: str, device: str, schemes: Sequence[str], collection: Collection) -> dict[str, Any]:
    """Scheme -> what was measured of it, or why it does not run."""
    texts = [*collection.documents, *collection.queries]
    single, ran = embed(model, device, "float32", texts)
    rows: dict[str, Any] = {}
    for scheme in schemes:
        try:
            if scheme == "float32":
                exact, _ = embed(model, device, "float64", texts)
                rows[scheme] = {
                    "ran": ran,
                    "against": "float64",
                    **compare(exact, single, collection).to_json(),
                }
            else:
                vectors, how = embed(model, device, scheme, texts)
                rows[scheme] = {
                    "ran": how,
                    "against": "float32",
                    **compare(single, vectors, collection).to_json(),
                }
        except PrecisionError as error:
            rows[scheme] = {"reason": str(error)}
            print(f"{scheme} does not run here: {error}", file=sys.stderr)
    return rows


def embed(model: str, device: str, precision: str, texts: Sequence[str]) -> tuple[Any, str]:
    """((texts, dim) in float64, the scheme that the plan took)."""
    started = time.perf_counter()
    loaded = tercet.load(model, precision=precision, device=device, output_dtype="float64")
    found = loaded.encode(texts, normalize=True).numpy().dense
    scheme = str(loaded.plan.scheme)
    print(f"{precision}: {scheme}, {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    return found, scheme


def page(rows: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The table in Markdown, the goals beside the numbers, and what it was measured on."""
    told, versions = facts["machine"], facts["versions"]
    head = (
        f"Drift of {facts['model']} on {facts['device']}: {facts['documents']:,} documents, "
        f"{facts['queries']:,} queries. {told['cpu']} ({told['model']}), "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f", source {facts['code']}."
    )
    return f"{head}\n\n{table(COLUMNS, [line(scheme, row) for scheme, row in rows.items()])}"


def line(scheme: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    """One scheme's cells; a goal that is missed stands in bold."""
    if "reason" in row:
        return (scheme, f"does not run here: {one_line(row['reason'])}", *[""] * (len(COLUMNS) - 2))
    change = Change(**{name: row[name] for name in Change.__dataclass_fields__})
    limits, reached = GOALS.get(scheme), met(scheme, change)

    def cell(name: str, value: str, goal: str) -> str:
        shown = f"**{value}**" if reached.get(name) is False else value
        return f"{shown} ({goal})" if limits is not None else shown

    return (
        scheme,
        row["ran"],
        row["against"],
        cell("mean", f"{change.mean:.1e}", f"≤ {limits.mean:.1e}" if limits else ""),
        cell("worst", f"{change.worst:.1e}", f"≤ {limits.worst:.1e}" if limits else ""),
        ""
        if change.overlap is None
        else cell("overlap", f"{change.overlap:.4f}", f"≥ {limits.overlap:g}" if limits else ""),
        "" if change.ndcg is None else f"{change.ndcg:.4f}",
        ""
        if change.difference is None
        else cell("ndcg", spanned(change), f"within {limits.ndcg:g}" if limits else ""),
    )


def spanned(change: Change) -> str:
    """The difference of nDCG@10 with its interval."""
    return f"{change.difference:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"


def one_line(text: str) -> str:
    """What fits a cell of a table."""
    return " ".join(text.split()).replace("|", "/")


if __name__ == "__main__":
    main()
