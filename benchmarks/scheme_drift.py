"""How far dense vectors move from float32, scheme by scheme, on real texts: the figures that schemes state.

    python benchmarks/scheme_drift.py CRANFIELD [--model minilm] [--precision bfloat16 --precision float16]

CRANFIELD is a folder in BEIR's layout with corpus.jsonl {title, text} and queries.jsonl {text}. The reference
is float64; float32's own distance to it is printed first, the others' to float32. 1 - cosine is computed from
the difference of unit vectors, |a - b|^2 / 2, since 1 - a.b of nearly equal vectors is nothing but rounding.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

import tercet


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="BEIR layout: corpus.jsonl, queries.jsonl")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", action="append", help="default: bfloat16 and float16")
    parser.add_argument("--limit", type=int, help="documents at most")
    options = parser.parse_args()
    texts = read(options.folder, options.limit)
    print(f"{options.model} on {options.device}, {len(texts)} texts, torch {torch.__version__}")
    exact = embed(options, "float64", texts)
    single = embed(options, "float32", texts)
    report("float32 to float64", exact, single)
    for precision in options.precision or ["bfloat16", "float16"]:
        report(f"{precision} to float32", single, embed(options, precision, texts))


def read(folder: Path, limit: int | None) -> list[str]:
    """Documents as title and text, then queries."""
    lines = (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()[:limit]
    documents = [json.loads(line) for line in lines]
    queries = [
        json.loads(line) for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [f"{d['title']} {d['text']}" for d in documents] + [query["text"] for query in queries]


def embed(options: argparse.Namespace, precision: str, texts: list[str]) -> torch.Tensor:
    """(texts, dim) unit vectors in float64, of one scheme."""
    started = time.perf_counter()
    model = tercet.load(options.model, precision=precision, device=options.device, output_dtype="float64")
    vectors = model.encode(texts, normalize=True).dense
    assert vectors is not None
    print(f"  {model.plan.scheme}, products by {model.plan.kernel}: {time.perf_counter() - started:.1f} s")
    return torch.nn.functional.normalize(vectors, dim=1)


def report(name: str, reference: torch.Tensor, vectors: torch.Tensor) -> None:
    """Mean and worst 1 - cosine."""
    distance = (reference - vectors).square().sum(1) / 2
    print(f"{name}: mean {distance.mean():.2e}, worst {distance.max():.2e}")


if __name__ == "__main__":
    main()
