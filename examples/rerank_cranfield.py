"""A second stage over the best documents of dense retrieval, measured: late interaction, and a cross-encoder.

python examples/rerank_cranfield.py cranfield              the packaged all-MiniLM-L6-v2, the best 100
python examples/rerank_cranfield.py cranfield --depth 20

The folder is any collection that `tercet evaluate` reads: BEIR's corpus.jsonl, queries.jsonl, qrels/test.tsv.
Late interaction (MaxSim) compares the encoder's own token vectors, which were not trained for it. The
cross-encoder is a tiny one with random weights, which this script writes: it shows the mechanics, and what
chance does to a ranking.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

import tercet
from tercet.embedder.token_vectors import token_vectors
from tercet.embeddings import MultiVectors
from tercet.errors import CheckpointError, TercetError
from tercet.evaluation.collection import Collection, Document
from tercet.evaluation.encoding import Encoding
from tercet.evaluation.layouts import open_collection
from tercet.evaluation.metrics import Scores, evaluate_run
from tercet.evaluation.reranked_runs import reranked_run
from tercet.evaluation.retrieval import Search, search
from tercet.evaluation.runs import Run
from tercet.evaluation.significance import paired_bootstrap, paired_randomization
from tercet.layers.norm import unit_rows
from tercet.scoring.late import maxsim

METRICS = ("ndcg@10", "recall@10", "mrr@10")
# BERT's layers, by their names in a checkpoint: rows and columns in units of the hidden size.
LAYER = {
    "attention.self.query": (1, 1),
    "attention.self.key": (1, 1),
    "attention.self.value": (1, 1),
    "attention.output.dense": (1, 1),
    "intermediate.dense": (2, 1),
    "output.dense": (1, 2),
}

# Plain text when it goes into a file; lines are never broken there.
console = Console(highlight=False, soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="a collection, for example in BEIR's layout")
    parser.add_argument("--model", default="minilm", help="a folder, a hub id, or minilm")
    parser.add_argument("--precision", default="float32", help="of the model: auto, or a dtype")
    parser.add_argument("--depth", type=int, default=100, help="so many documents of each query")
    parser.add_argument("--seed", type=int, default=0, help="of the cross-encoder's weights")
    options = parser.parse_args(argv)
    if options.depth < 1:
        parser.error(f"--depth is {options.depth}; give 1 or more.")
    try:
        compare(options.folder, options.model, options.precision, options.depth, options.seed)
    except TercetError as error:
        print(f"rerank_cranfield: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rerank_cranfield: stopped.", file=sys.stderr)
        return 130
    return 0


def compare(folder: str, model_name: str, precision: str, depth: int, seed: int) -> None:
    collection = open_collection(folder)
    model = tercet.load(model_name, precision=precision)
    console.print(
        f"{collection.name}: {collection.num_documents:,} documents, {len(collection.queries):,} queries. "
        f"{model.checkpoint.name}: {model.plan.scheme} on {model.plan.device}."
    )
    start = perf_counter()
    first = search(model, collection, Encoding(("dense",)), Search(depth=1000)).runs["dense"]
    stages = [Stage.of("dense", first, collection, perf_counter() - start)]

    start = perf_counter()
    late = LateInteraction.of(model, first, collection, depth)
    console.print(f"Token vectors take {late.num_bytes / 1e6:,.0f} MB.")
    run = reranked(late.score, first, collection, depth)
    stages.append(Stage.of("late interaction", run, collection, perf_counter() - start))

    with tempfile.TemporaryDirectory() as place:
        random = write_cross_encoder(Path(place), model, seed=seed)
        start = perf_counter()
        reranker = tercet.load_reranker(random, precision="float32", device=model.plan.device)
        run = reranked(reranker.score, first, collection, depth)
        stages.append(Stage.of("random cross-encoder", run, collection, perf_counter() - start))
    show(stages, depth)


@dataclass(frozen=True)
class Stage:
    """A ranking of the collection: what it is worth, and the seconds it took, loading included."""

    name: str
    scores: Scores
    seconds: float

    @classmethod
    def of(cls, name: str, run: Run, collection: Collection, seconds: float) -> Stage:
        """The run's figures."""
        return cls(name, evaluate_run(run, collection.qrels, METRICS), seconds)


def reranked(
    score: Callable[[list[tuple[str, str]]], Tensor], run: Run, collection: Collection, depth: int
) -> Run:
    """The run with the best documents of each query in the order of these scores."""
    return reranked_run(
        score, run, queries(collection), collection.documents(), depth=depth, where="dense retrieval"
    )


def queries(collection: Collection) -> list[Document]:
    return [Document(name, text, collection.name) for name, text in collection.queries.items()]


@dataclass(frozen=True)
class LateInteraction:
    """The vectors of every text's tokens, special ones included, of unit length in float16: text -> its row.

    A document is among the best of many queries: it is embedded once.
    """

    vectors: MultiVectors
    rows: dict[str, int]

    @classmethod
    def of(cls, model: tercet.Embedder, run: Run, collection: Collection, depth: int) -> LateInteraction:
        """Of the queries, and of the documents that are among the best of any."""
        wanted = {name for ranking in run.values() for name in ranking.ids[:depth]}
        documents = (one.text for one in collection.documents() if one.id in wanted)
        texts = list(dict.fromkeys([*collection.queries.values(), *documents]))
        parts = []
        for first in range(0, len(texts), 64):
            found = token_vectors(model, texts[first : first + 64]).vectors
            parts.append(MultiVectors(unit_rows(found.vectors.float()).half(), found.offsets))
        return cls(MultiVectors.concat(parts), {text: row for row, text in enumerate(texts)})

    @property
    def num_bytes(self) -> int:
        """Of the vectors."""
        return self.vectors.vectors.nbytes

    def score(self, pairs: list[tuple[str, str]]) -> Tensor:
        """(pairs,), the mean over a query's tokens of the best match among the document's (MaxSim)."""
        scores = torch.empty(len(pairs))
        for query in dict.fromkeys(query for query, _ in pairs):
            places = [place for place, pair in enumerate(pairs) if pair[0] == query]
            documents = self.vectors[[self.rows[pairs[place][1]] for place in places]]
            scores[places] = maxsim(self.vectors.rows(self.rows[query]).float(), documents)
        return scores


def write_cross_encoder(folder: Path, model: tercet.Embedder, *, seed: int) -> Path:
    """A BERT cross-encoder of two narrow layers with random weights, and the tokenizer of `model`."""
    hidden, positions = 32, 512
    checkpoint = model.checkpoint
    if checkpoint.tokenizer_file is None:
        raise CheckpointError(f"{checkpoint.name} has no tokenizer.json. Choose another model.")
    vocabulary = int(checkpoint.config["vocab_size"])
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "bert.embeddings.word_embeddings.weight": (vocabulary, hidden),
        "bert.embeddings.position_embeddings.weight": (positions, hidden),
        "bert.embeddings.token_type_embeddings.weight": (2, hidden),
        "bert.pooler.dense.weight": (hidden, hidden),
        "bert.pooler.dense.bias": (hidden,),
        "classifier.weight": (1, hidden),
        "classifier.bias": (1,),
    }
    norms = ["bert.embeddings.LayerNorm"]
    for number in range(2):
        layer = f"bert.encoder.layer.{number}"
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        for name, (rows, columns) in LAYER.items():
            shapes[f"{layer}.{name}.weight"] = (rows * hidden, columns * hidden)
            shapes[f"{layer}.{name}.bias"] = (rows * hidden,)
    tensors = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name in norms:
        tensors |= {f"{name}.weight": torch.ones(hidden), f"{name}.bias": torch.zeros(hidden)}
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": positions,
        "vocab_size": vocabulary,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "num_labels": 1,
    }
    tokenizer = {"model_max_length": positions, "tokenizer_class": "BertTokenizer"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "tokenizer.json").write_bytes(checkpoint.tokenizer_file.read_bytes())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def show(stages: Sequence[Stage], depth: int) -> None:
    """Each metric, its change from the first stage with a 95 % interval and a p-value, and the time."""
    first, *others = stages
    table = Table(box=None, pad_edge=False)
    for name in ("", *METRICS, "seconds"):
        table.add_column(name, justify="right" if name else "left")
    for stage in stages:
        means = [f"{stage.scores.means[name]:.4f}" for name in METRICS]
        table.add_row(stage.name, *means, f"{stage.seconds:.1f}")
    console.print(table)
    for stage in others:
        console.print(f"\nThe first {depth:,} by {stage.name}, against {first.name}:")
        for name in METRICS:
            before, after = first.scores.values[name], stage.scores.values[name]
            test, interval = paired_randomization(before, after), paired_bootstrap(before, after)
            console.print(
                f"  {name:<10} {test.difference:+.4f}, from {interval.low:+.4f} to {interval.high:+.4f} in "
                f"95 % of samples of queries; p = {test.p_value:.2g} by a paired randomisation test"
            )
    console.print("\nFigures are those of `tercet evaluate`. Seconds are of this machine, as busy as it was.")


if __name__ == "__main__":
    sys.exit(main())
