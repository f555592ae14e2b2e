"""Training learns what holds for texts that it never saw: losses fall and nDCG rises on a held-out part."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch.nn import functional

import tercet
import tiny
from tercet.precision.dtype import DType
from tercet.scoring import score_matrix
from tercet.training.model import open_trainable
from tercet.training.recipe import HeadRecipe
from tercet.training.saving import save_trained
from tercet.training.trainer import Trained, train

OUTPUTS = ("dense", "sparse", "multivector")
# Words of a query, and words that stand for them in passages: which for which is learned from other texts.
ASKED, ANSWERED = tiny.WORDS[40:56], tiny.WORDS[60:76]
NAMES = tiny.WORDS[80:96]  # that both sides share
FILLERS = tiny.WORDS[:24]  # that say nothing
HELD_OUT = 80
TEMPERATURE = {"dense": 0.05, "sparse": 1.0, "multivector": 0.05}
STEPS = 100


class Pair(NamedTuple):
    query: str
    passage: str


def make_pairs(count: int, draw: random.Random) -> list[Pair]:
    """Different pairs of three things each, with two names, in any order and among fillers."""
    found: dict[tuple[int, ...], Pair] = {}
    while len(found) < count:
        things = sorted(draw.sample(range(len(ASKED)), 3))
        names = draw.sample(NAMES, 2)
        query = [*(ASKED[one] for one in things), *names, *draw.choices(FILLERS, k=3)]
        passage = [*(ANSWERED[one] for one in things), *names, *draw.choices(FILLERS, k=5)]
        draw.shuffle(query)
        draw.shuffle(passage)
        # No two pairs have the same three things: what is held out has combinations of its own.
        found.setdefault(tuple(things), Pair(" ".join(query), " ".join(passage)))
    return list(found.values())


def write_collection(folder: Path, pairs: list[Pair]) -> None:
    (folder / "qrels").mkdir(parents=True)
    for name, side in (("corpus", 1), ("queries", 0)):
        lines = [json.dumps({"_id": f"{name}{row}", "text": pair[side]}) for row, pair in enumerate(pairs)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    judged = "".join(f"queries{row}\tcorpus{row}\t1\n" for row in range(len(pairs)))
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")


class Run(NamedTuple):
    before: Path
    done: Trained
    held_out: list[Pair]
    collection: Path
    scalars: list[dict[str, float]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("learning")
    pairs = make_pairs(400, random.Random(1))
    held_out, learned = pairs[:HELD_OUT], pairs[HELD_OUT:]
    lines = [json.dumps({"query": pair.query, "pos": [pair.passage]}) for pair in learned]
    (folder / "learn.jsonl").write_text("\n".join(lines) + "\n")
    write_collection(folder / "held_out", held_out)
    base = tiny.write_checkpoint(folder / "base", "bert", layout="sentence-transformers")
    heads = HeadRecipe(sparse=True, multivector=16)
    begun = open_trainable(base, heads=heads, seed=0)
    before = save_trained(begun, folder / "before", DType.FLOAT32, card="where training begins\n")
    done = train(
        {
            "model": str(base),
            "output": {"folder": str(folder / "trained")},
            "heads": asdict(heads),
            "seed": 0,
            "data": [{"path": str(folder / "learn.jsonl"), "group_size": 1}],
            "losses": [
                {"name": "info_nce", "head": head, "options": {"temperature": TEMPERATURE[head]}}
                for head in OUTPUTS
            ],
            "batch": {"texts": 32},
            "optimizer": {"learning_rate": 5e-3, "head_learning_rate": 1e-2},
            "steps": STEPS,
            "dropout": 0.0,
            "precision": "float32",
            "validation": {"collection": str(folder / "held_out"), "every": STEPS // 2},
        },
        device="cpu",
    )
    lines = Path(f"{done.folder}.run/scalars.jsonl").read_text().splitlines()
    return Run(before, done, held_out, folder / "held_out", [json.loads(line) for line in lines])


def losses(folder: Path, pairs: list[Pair]) -> dict[str, float]:
    """InfoNCE of each head over the passages of all pairs."""
    model = tercet.load(folder, precision="float32", device="cpu")
    queries, passages = (model.encode([pair[side] for pair in pairs], outputs=OUTPUTS) for side in (0, 1))
    found = score_matrix(queries, passages)
    own = torch.arange(len(pairs))
    return {
        head: functional.cross_entropy(getattr(found, head) / TEMPERATURE[head], own).item()
        for head in OUTPUTS
    }


def ndcg(folder: Path, collection: Path) -> dict[str, float]:
    report = tercet.evaluate(
        tercet.load(folder, precision="float32", device="cpu"), collection, outputs=OUTPUTS
    )
    return {head: report[head].metrics["ndcg@10"] for head in OUTPUTS}


def test_the_loss_of_every_head_goes_down(run: Run) -> None:
    steps = [line for line in run.scalars if "loss" in line]
    assert len(steps) == STEPS
    for part in ("loss", *(f"{head}/info_nce" for head in OUTPUTS)):
        first, last = (sum(line[part] for line in some) for some in (steps[:5], steps[-5:]))
        assert last < 0.4 * first, part


def test_the_loss_of_every_head_goes_down_on_pairs_that_were_held_out(run: Run) -> None:
    before, after = (losses(folder, run.held_out) for folder in (run.before, run.done.folder))
    for head in OUTPUTS:
        assert after[head] < 0.6 * before[head], head


def test_every_head_finds_held_out_passages_that_it_did_not_find_before(run: Run) -> None:
    before, after = (ndcg(folder, run.collection) for folder in (run.before, run.done.folder))
    for head in OUTPUTS:
        assert after[head] > before[head] + 0.25, head
        assert after[head] > 0.65, head
        # What was measured in training is what the saved folder gives.
        assert run.done.best[f"{head}/ndcg@10"] == pytest.approx(after[head], abs=0.01)


def test_the_best_measurement_is_what_is_kept(run: Run) -> None:
    measured = {line["step"]: line["validation/chosen"] for line in run.scalars if "loss" not in line}
    assert list(measured) == [STEPS // 2, STEPS]
    assert run.done.best["chosen"] == max(measured.values()) == measured[run.done.best_step]
