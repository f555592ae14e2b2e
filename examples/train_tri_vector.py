"""A sparse head and a multi-vector head for the packaged all-MiniLM-L6-v2, trained on texts of this machine.

The encoder stays as it is: its hidden states are computed once, and two linear layers learn from them.

python examples/train_tri_vector.py -o build/tri_vector               minutes on two cores; needs no network
python examples/train_tri_vector.py -o build/tri_vector --pairs 2000 --steps 50    to see it run
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Linear
from torch.nn.functional import cross_entropy, log_softmax, normalize, softmax
from tri_vector_pairs import long_pairs, sources

import tercet
from tercet.cli.progress import Progress
from tercet.embedder.token_vectors import token_vectors
from tercet.embeddings import MultiVectors, SparseVectors
from tercet.errors import InputError, TercetError
from tercet.scoring import dense_scores, maxsim_scores, weighted_sum
from tercet.training.late_scores import late_scores
from tercet.training.sparse_scores import pool_tokens, sparse_scores


@dataclass(frozen=True, slots=True)
class Settings:
    """All that the heads depend on, beside the texts."""

    pairs: int = 15_000
    shortest: int = 36  # words of a passage
    max_length: int = 128  # tokens of a text
    held_out: int = 1500  # pairs, of which nothing is learned
    asked: int = 300  # of these, so many queries search the passages of all
    dimensions: int = 96
    steps: int = 400
    groups: int = 4  # a batch: so many pairs drawn, and to each
    near: int = 7  # so many of the `nearest` whose passages are most alike
    nearest: int = 100
    temperature: float = 0.03
    rate: float = 1e-3
    contrast: float = 0.5  # weight of InfoNCE
    distilled: float = 2.0  # weight of what the teacher says
    seed: int = 1
    question_seed: int = 3


class Side(NamedTuple):
    """Queries or passages: what the encoder says of each token, its id, and the vector of each text."""

    hidden: MultiVectors
    token_ids: Tensor
    dense: Tensor

    def take(self, texts: Tensor | slice) -> Side:
        """Those of some texts, in float32."""
        lengths = torch.arange(len(self.token_ids))[:, None]
        rows = MultiVectors(lengths, self.hidden.offsets)[texts].vectors[:, 0]
        hidden = self.hidden[texts]
        return Side(
            MultiVectors(hidden.vectors.float(), hidden.offsets), self.token_ids[rows], self.dense[texts]
        )


class Heads(NamedTuple):
    """The two layers, as FlagEmbedding keeps them."""

    sparse: Linear
    colbert: Linear
    special_ids: Tensor
    vocabulary: int

    def lexical(self, side: Side) -> SparseVectors:
        """A weight for each token id of each text: of its repeats the largest."""
        weights = self.sparse(side.hidden.vectors)[:, 0].relu()
        return pool_tokens(
            side.token_ids,
            weights,
            side.hidden.offsets,
            vocabulary=self.vocabulary,
            special_ids=self.special_ids,
        )

    def late(self, side: Side) -> MultiVectors:
        """A vector of unit length for each token but the first of a text."""
        rest = without_first(side.hidden)
        return MultiVectors(normalize(self.colbert(rest.vectors), dim=-1), rest.offsets)


@dataclass(slots=True)
class Log:
    """What there is to draw."""

    settings: dict[str, object]
    texts: dict[str, int]
    steps: list[int] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)
    measured_at: list[int] = field(default_factory=list)
    ndcg: dict[str, list[float]] = field(default_factory=dict)
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", required=True, help="folder for the heads and training.json")
    usual = Settings()
    parser.add_argument("--pairs", type=int, default=usual.pairs)
    parser.add_argument("--steps", type=int, default=usual.steps)
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--apt", action="append", default=[], metavar="OPTION", help="-o OPTION of apt-cache")
    options = parser.parse_args(argv)
    settings = Settings(pairs=options.pairs, steps=options.steps, seed=options.seed)
    try:
        run(settings, Path(options.output), [part for one in options.apt for part in ("-o", one)])
    except TercetError as error:
        print(f"train_tri_vector: {error}", file=sys.stderr)
        return 2
    return 0


def run(settings: Settings, output: Path, apt_options: Sequence[str]) -> None:
    """Texts, hidden states, heads, and what they are worth on the held-out part; all into one folder."""
    pairs = long_pairs(
        sources(apt_options),
        settings.pairs,
        shortest=settings.shortest,
        seed=settings.seed,
        question_seed=settings.question_seed,
    )
    # A machine with few texts holds out fewer.
    held_out = min(settings.held_out, len(pairs) // 4)
    settings = replace(settings, pairs=len(pairs), held_out=held_out, asked=min(settings.asked, held_out))
    if len(pairs) < 4 * (settings.near + 2):
        raise InputError(
            f"{len(pairs):,} pairs of {settings.shortest} words or more are too few to learn from. Ask "
            "for more --pairs, or let apt know packages: apt-get -o Acquire::Languages=en update."
        )
    origins = sorted({pair.origin for pair in pairs})
    counts = {origin: sum(pair.origin == origin for pair in pairs) for origin in origins}
    print(f"{len(pairs):,} pairs: {', '.join(f'{count:,} of {name}' for name, count in counts.items())}.")
    model = tercet.load("minilm", precision="float32")
    queries = states(model, [pair.query for pair in pairs], settings.max_length, "Queries")
    passages = states(model, [pair.passage for pair in pairs], settings.max_length, "Passages")
    log = Log(asdict(settings), counts)
    heads = train(queries, passages, settings, log, model)
    output.mkdir(parents=True, exist_ok=True)
    for name, layer in (("sparse_linear.pt", heads.sparse), ("colbert_linear.pt", heads.colbert)):
        torch.save({key: value.detach().clone() for key, value in layer.state_dict().items()}, output / name)
    # A line an entry: the file stays readable with hundreds of steps in it.
    entries = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in asdict(log).items()]
    text = "{\n" + ",\n".join(entries) + "\n}\n"
    (output / "training.json").write_text(text, encoding="utf-8")
    print(f"Written to {output}. Weights of dense, sparse and multi-vector scores: {log.weights}.")


def states(model: tercet.Embedder, texts: Sequence[str], max_length: int, what: str) -> Side:
    """What the encoder says of all texts, in float16 to hold it, a thousand texts at a time."""
    ids: list[int] = []
    parts, dense = [], []
    with Progress(what, measurable=True) as progress:
        for first in range(0, len(texts), 1024):
            found = token_vectors(model, texts[first : first + 1024], max_length=max_length)
            ids += [token for text in found.ids for token in text]
            parts.append(found.vectors.to(torch.float16))
            dense.append(mean_rows(found.vectors))
            progress.advance(
                len(found.ids), len(found.vectors.vectors), min(1.0, (first + 1024) / len(texts))
            )
    return Side(MultiVectors.concat(parts), torch.tensor(ids), torch.cat(dense))


def mean_rows(hidden: MultiVectors) -> Tensor:
    """(texts, hidden), the model's own dense vectors: the mean of the tokens, of unit length."""
    owners = torch.repeat_interleave(torch.arange(len(hidden)), hidden.lengths)
    sums = torch.zeros(len(hidden), hidden.dim).index_add_(0, owners, hidden.vectors)
    return normalize(sums, dim=1)


def without_first(hidden: MultiVectors) -> MultiVectors:
    """All rows but the first of each text."""
    kept = torch.ones(len(hidden.vectors), dtype=torch.bool)
    kept[hidden.offsets[:-1]] = False
    return MultiVectors(hidden.vectors[kept], hidden.offsets - torch.arange(len(hidden) + 1))


def train(queries: Side, passages: Side, settings: Settings, log: Log, model: tercet.Embedder) -> Heads:
    """Heads trained on all pairs but the last ones, which choose nothing but the weights of the hybrid."""
    learned = len(queries.dense) - settings.held_out
    draw = torch.Generator().manual_seed(settings.seed)
    heads = first_heads(passages, learned, settings, model, draw)
    nearest = neighbours(passages.dense[:learned], settings.nearest)
    layers = torch.nn.ModuleList((heads.sparse, heads.colbert))
    optimizer = torch.optim.Adam(layers.parameters(), lr=settings.rate)
    measure(0, heads, queries, passages, settings, log)
    with Progress("Training", measurable=True) as progress:
        for step in range(settings.steps):
            decay = min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
            optimizer.param_groups[0]["lr"] = settings.rate * decay
            chosen = batch(nearest, settings, draw)
            losses = step_losses(heads, queries.take(chosen), passages.take(chosen), settings)
            optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            log.steps.append(step + 1)
            for name, loss in losses.items():
                log.losses.setdefault(name, []).append(round(loss.item(), 4))
            progress.advance(len(chosen), 0, (step + 1) / settings.steps)
            if (step + 1) % max(1, settings.steps // 4) == 0:
                measure(step + 1, heads, queries, passages, settings, log)
    return heads


def first_heads(
    passages: Side, learned: int, settings: Settings, model: tercet.Embedder, draw: torch.Generator
) -> Heads:
    """Where training begins.

    Multi-vectors: the directions in which unit vectors of tokens and, thrice as heavy, of texts vary most, so
    that MaxSim is nearly that of whole hidden states. Sparse: the least-squares fit to the root of each
    token's idf, so that a shared token counts its idf: hidden states know which token they are of.
    """
    vocabulary = int(model.checkpoint.config["vocab_size"])
    special_ids = torch.tensor(sorted(model.tokenizer.special_ids))
    sample = torch.randperm(learned, generator=draw)[:2000].sort().values
    side = passages.take(sample)
    ordinary = ~torch.isin(side.token_ids, special_ids)
    rows, ids = side.hidden.vectors[ordinary], side.token_ids[ordinary]
    tokens, texts = normalize(rows, dim=1), passages.dense[:learned]
    moments = tokens.T @ tokens / len(tokens) + 3 * texts.T @ texts / len(texts)
    directions = torch.linalg.eigh(moments).eigenvectors[:, -settings.dimensions :].T

    ends = int(passages.hidden.offsets[learned])
    owners = torch.repeat_interleave(torch.arange(learned), passages.hidden.lengths[:learned])
    once = torch.unique(owners * vocabulary + passages.token_ids[:ends]) % vocabulary
    frequency = torch.bincount(once, minlength=vocabulary)
    root_idf = torch.log1p(learned / (frequency + 0.5)).sqrt()
    inputs = torch.cat([rows, torch.ones(len(rows), 1)], dim=1).double()
    normal = inputs.T @ inputs + 10 * torch.eye(inputs.shape[1], dtype=torch.float64)
    fit = torch.linalg.solve(normal, inputs.T @ root_idf[ids].double()).float()

    heads = Heads(
        Linear(rows.shape[1], 1), Linear(rows.shape[1], settings.dimensions), special_ids, vocabulary
    )
    with torch.no_grad():
        # Half of it: the scores then are of a size for a softmax.
        heads.sparse.weight.copy_(0.5 * fit[None, :-1])
        heads.sparse.bias.copy_(0.5 * fit[-1:])
        heads.colbert.weight.copy_(directions)
        heads.colbert.bias.zero_()
    return heads


def neighbours(dense: Tensor, nearest: int) -> Tensor:
    """(texts, nearest), of each passage those most like it by the model's own dense vectors."""
    found = []
    for first in range(0, len(dense), 1024):
        scores = dense[first : first + 1024] @ dense.T
        own = torch.arange(len(scores))
        scores[own, first + own] = -math.inf
        found.append(scores.topk(min(nearest, len(dense) - 1), dim=1).indices)
    return torch.cat(found)


def batch(nearest: Tensor, settings: Settings, draw: torch.Generator) -> Tensor:
    """Pairs that are drawn, and near ones: each is a hard negative of the others of its group."""
    seeds = torch.randint(len(nearest), (settings.groups,), generator=draw)
    picks = [torch.randperm(nearest.shape[1], generator=draw)[: settings.near] for _ in seeds]
    return torch.unique(
        torch.cat([seeds, *(nearest[seed, pick] for seed, pick in zip(seeds, picks, strict=True))])
    )


def step_losses(heads: Heads, queries: Side, passages: Side, settings: Settings) -> dict[str, Tensor]:
    """InfoNCE of each head, of all three together, and how far each is from what the frozen model says.

    The teacher is the mean of the model's dense similarity and of MaxSim of its whole hidden states.
    """
    target, temperature = torch.arange(len(queries.dense)), settings.temperature
    dense = queries.dense @ passages.dense.T
    late = late_scores(heads.late(queries), heads.late(passages))
    sparse = sparse_scores(heads.lexical(queries), heads.lexical(passages))
    with torch.no_grad():
        whole = late_scores(unit(queries), unit(passages))
        teacher = softmax((dense + whole) / 2 / temperature, dim=1)
    together = (dense + late) / 2 / temperature + sparse / 2
    contrast, distilled = settings.contrast, settings.distilled
    return {
        "multivector": contrast * cross_entropy(late / temperature, target),
        "sparse": contrast * cross_entropy(sparse, target),
        "together": contrast * cross_entropy(together, target),
        "multivector, distilled": distilled * divergence(teacher, late / temperature),
        "sparse, distilled": distilled * divergence(teacher, sparse),
    }


def divergence(teacher: Tensor, scores: Tensor) -> Tensor:
    """How far the scores' softmax is from the teacher's, as cross-entropy."""
    return -(teacher * log_softmax(scores, dim=1)).sum(dim=1).mean()


def unit(side: Side) -> MultiVectors:
    """Whole hidden states of unit length, without the first token's."""
    rest = without_first(side.hidden)
    return MultiVectors(normalize(rest.vectors, dim=-1), rest.offsets)


@torch.no_grad()
def measure(step: int, heads: Heads, queries: Side, passages: Side, settings: Settings, log: Log) -> None:
    """nDCG@10 on the held-out pairs, and the weights of the hybrid that are best there."""
    learned = len(queries.dense) - settings.held_out
    asked = queries.take(slice(learned, learned + settings.asked))
    searched = passages.take(slice(learned, None))
    scores = {
        "dense": dense_scores(asked.dense, searched.dense),
        "sparse": sparse_scores(heads.lexical(asked), heads.lexical(searched)),
        "multivector": maxsim_scores(heads.late(asked), heads.late(searched)),
    }
    found = {name: ndcg(each) for name, each in scores.items()}
    candidates = [
        (1.0, sparse, late)
        for sparse in (0.0, 0.01, 0.02, 0.03, 0.05, 0.1)
        for late in (0.0, 0.5, 1.0, 2.0, 4.0)
    ]
    fused = {weights: ndcg(weighted_sum(*scores.values(), weights)) for weights in candidates}
    log.weights = max(fused, key=lambda weights: fused[weights])
    found["hybrid"] = fused[log.weights]
    log.measured_at.append(step)
    for name, value in found.items():
        log.ndcg.setdefault(name, []).append(round(value, 4))
    print(f"step {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))


def ndcg(scores: Tensor) -> float:
    """nDCG@10 where the passage of query i is the i-th; of equal scores the others come first."""
    own = scores.diagonal()[:, None]
    ahead = (scores > own).sum(dim=1) + (scores == own).sum(dim=1) - 1
    gains = torch.where(ahead < 10, 1 / torch.log2(ahead + 2.0), 0.0)
    return float(gains.mean())


if __name__ == "__main__":
    sys.exit(main())
