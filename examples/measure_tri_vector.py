"""What each head is worth on a collection that it never saw, against BM25, with paired tests.

python examples/measure_tri_vector.py cranfield                         the heads in the package
python examples/measure_tri_vector.py cranfield --heads build/tri_vector    those just trained

The collection is a folder in BEIR's layout; BM25 is bm25s's (`pip install bm25s`) on word pieces.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import bm25s
import numpy as np
import torch
from torch import Tensor

import tercet
from tercet.checkpoint.packaged import COMPOSED, compose
from tercet.errors import TercetError
from tercet.evaluation.significance import paired_bootstrap, paired_randomization
from tercet.scoring import score_matrix, weighted_sum

OUTPUTS = ("dense", "sparse", "multivector")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with corpus.jsonl, queries.jsonl, qrels/test.tsv")
    packaged = COMPOSED["tercet-minilm"][1]
    parser.add_argument("--heads", type=Path, default=packaged, help="folder of the heads and training.json")
    options = parser.parse_args(argv)
    try:
        print(table(options.data, options.heads))
    except (TercetError, FileNotFoundError) as error:
        print(f"measure_tri_vector: {error}", file=sys.stderr)
        return 2
    return 0


def table(data: Path, heads: Path) -> str:
    """A row a kind of score: nDCG@10, and how far that is from dense."""
    documents = {
        row["_id"]: f"{row.get('title', '')} {row['text']}".strip() for row in lines(data / "corpus.jsonl")
    }
    judged = judgements(data / "qrels" / "test.tsv")
    queries = {row["_id"]: row["text"] for row in lines(data / "queries.jsonl") if row["_id"] in judged}
    with tempfile.TemporaryDirectory() as scratch:
        folder = compose("tercet-minilm", Path(scratch) / "model")
        for name in ("sparse_linear.pt", "colbert_linear.pt"):
            shutil.copyfile(heads / name, folder / name)
        model = tercet.load(folder, precision="float32")
        found = score_matrix(
            model.encode_query(list(queries.values()), outputs=OUTPUTS),
            model.encode_document(list(documents.values()), outputs=OUTPUTS),
        )
        pieces = [
            model.tokenizer.encode(list(texts.values()), max_length=512).ids for texts in (queries, documents)
        ]
    weights = tuple(json.loads((heads / "training.json").read_text(encoding="utf-8"))["weights"])
    scores = {
        "BM25": bm25(*pieces),
        "dense": found.dense,
        "sparse": found.sparse,
        "multi-vector": found.multivector,
        "dense + multi-vector": weighted_sum(found.dense, None, found.multivector),
        "hybrid " + " : ".join(f"{weight:g}" for weight in weights): weighted_sum(
            found.dense, found.sparse, found.multivector, weights
        ),
    }
    places = {name: place for place, name in enumerate(documents)}
    gains = [{places[name]: gain for name, gain in judged[query].items()} for query in queries]
    values = {name: ndcg(each, gains) for name, each in scores.items()}
    rows = ["| scores | nDCG@10 | minus dense | 95 % interval | p |", "|---|---|---|---|---|"]
    for name, value in values.items():
        row = f"| {name} | {value.mean():.4f} |"
        if name == "dense":
            rows.append(f"{row} | | |")
            continue
        test = paired_randomization(values["dense"], value, seed=0)
        interval = paired_bootstrap(values["dense"], value, seed=0)
        rows.append(
            f"{row} {test.difference:+.4f} | {interval.low:+.4f} to {interval.high:+.4f} "
            f"| {test.p_value:.4f} |"
        )
    return "\n".join(rows)


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def judgements(path: Path) -> dict[str, dict[str, float]]:
    """Query -> document -> gain above 0."""
    found: dict[str, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        query, document, gain = line.split("\t")
        if float(gain) > 0:
            found.setdefault(query, {})[document] = float(gain)
    return found


def bm25(queries: Sequence[Sequence[int]], documents: Sequence[Sequence[int]]) -> Tensor:
    """(queries, documents), by bm25s as it comes; tokens are word pieces without [CLS] and [SEP]."""
    index = bm25s.BM25()
    index.index([[str(token) for token in ids[1:-1]] for ids in documents], show_progress=False)
    rows = [index.get_scores([str(token) for token in ids[1:-1]]) for ids in queries]
    return torch.from_numpy(np.stack(rows))


def ndcg(scores: Tensor, gains: Sequence[dict[int, float]]) -> np.ndarray:
    """(queries,), nDCG@10 with linear gain."""
    discounts = 1 / np.log2(np.arange(2, 12))
    values = []
    for row, gain in zip(scores, gains, strict=True):
        got = np.array([gain.get(place, 0.0) for place in row.topk(min(10, len(row))).indices.tolist()])
        best = np.array(sorted(gain.values(), reverse=True)[:10])
        values.append((got * discounts[: len(got)]).sum() / (best * discounts[: len(best)]).sum())
    return np.array(values)


if __name__ == "__main__":
    sys.exit(main())
