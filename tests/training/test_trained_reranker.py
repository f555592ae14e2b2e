"""Rerankers that are trained: what they learn, and that it is what their saved folders give."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from itertools import pairwise
from math import log2
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

import tercet
import tiny
import tiny_reranker
from in_two import in_two
from tercet.errors import CheckpointError, InputError, UnknownNameError
from tercet.precision.dtype import DType
from tercet.training.cross_encoder import TrainableReranker, open_trainable_reranker, save_reranker
from tercet.training.trainer import train
from two_trainers import train_in_two

PAIRS = [("the cat", "red and red"), ("the dog and the sun", "green or blue"), ("read", "open the file")]
LONG = [("the cat and the dog", "wait for several coroutines " * 9), ("the sun " * 20, "red")]
# Of which word in a query asks for which in a passage.
ANSWERS = {"cat": "red", "dog": "green", "sun": "blue", "moon": "long"}
FILLERS = ("the", "and", "is", "of", "a", "in")


def examples(count: int, seed: int) -> list[dict[str, Any]]:
    """Queries, each with a passage that answers and three that answer other ones."""
    draw = random.Random(seed)

    def text(word: str) -> str:
        words = [word, *draw.choices(FILLERS, k=4)]
        draw.shuffle(words)
        return " ".join(words)

    found = []
    for _ in range(count):
        asked = draw.choice(list(ANSWERS))
        others = [answer for word, answer in ANSWERS.items() if word != asked]
        found.append(
            {
                "query": text(asked),
                "pos": [text(ANSWERS[asked])],
                "neg": [text(other) for other in others],
                "pos_scores": [4.0],
                "neg_scores": [-4.0, -3.0, -5.0],
            }
        )
    return found


def write_lines(path: str, lines: list[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with examples, pairs with labels, and examples that are held out."""
    monkeypatch.chdir(tmp_path)
    learned = examples(160, 1)
    seen = {one["query"] for one in learned}
    write_lines("learn.jsonl", learned)
    write_lines("few.jsonl", learned[:6])
    write_lines("held_out.jsonl", [one for one in examples(80, 2) if one["query"] not in seen])
    write_lines(
        "labels.jsonl",
        [
            {"sentence1": one["query"], "sentence2": text, "label": float("red" in text or "green" in text)}
            for one in learned
            for text in one["neg"]
        ],
    )
    return tmp_path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "base"
    return tiny.write_checkpoint(folder, "bert", layout="sentence-transformers")


def recipe(model: Path, loss: str = "reranker_cross_entropy", **changes: Any) -> dict[str, Any]:
    return {
        "model": str(model),
        "output": {"folder": "out"},
        "data": [{"path": "learn.jsonl", "group_size": 4}],
        "losses": [{"name": loss}],
        "batch": {"texts": 16},
        "optimizer": {"learning_rate": 3e-3, "schedule": "constant"},
        "steps": 60,
        "dropout": 0.0,
        "precision": "float32",
        **changes,
    }


def scalars(folder: str = "out") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(f"{folder}.run/scalars.jsonl").read_text().splitlines()]


def logits(model: TrainableReranker, pairs: list[tuple[str, str]], **cut: Any) -> Tensor:
    found = model(model.batch(pairs, **{"max_length": 40, **cut})).dense
    assert found is not None
    return found[:, 0]


def compared(folder: str | Path) -> Tensor:
    """Logits of some pairs beside their mean.

    What all have in common no cross-entropy of a group sees: the last bias has a gradient of rounding alone,
    which Adam makes as long as any other.
    """
    found = tercet.load_reranker(folder, precision="float32").score(PAIRS + LONG, activation="Identity")
    return found - found.mean()


@pytest.mark.parametrize("loss", ["reranker_cross_entropy", "reranker_distillation"])
@pytest.mark.usefixtures("here")
def test_an_encoder_becomes_a_reranker_that_ranks_what_was_held_out(loss: str, base: Path) -> None:
    how = {"collection": "held_out.jsonl", "metric": "ndcg@10", "every": 30}
    save_reranker(open_trainable_reranker(base), "before", DType.FLOAT32, card="")
    done = train(recipe(base, loss, validation=how), device="cpu")
    lines = [line["loss"] for line in scalars() if "loss" in line]
    # The entropy of the teacher's own distribution, below which no model falls, is about 0.
    assert sum(lines[-5:]) < 0.5 * sum(lines[:5])
    held_out = [json.loads(line) for line in Path("held_out.jsonl").read_text().splitlines()]
    found = {}
    for name in ("before", "out"):
        model = tercet.load_reranker(name, precision="float32")
        places = [
            1 + [one.index for one in model.rank(line["query"], [*line["neg"], *line["pos"]])].index(3)
            for line in held_out
        ]
        found[name] = sum(1 / log2(1 + place) for place in places) / len(places)
    assert found["out"] > max(0.85, found["before"] + 0.15)
    assert done.best["reranker/ndcg@10"] == pytest.approx(found["out"])
    assert "text-ranking" in Path("out/README.md").read_text()


@pytest.mark.usefixtures("here")
def test_labels_of_pairs_are_learned_for_pairs_that_were_held_out(base: Path) -> None:
    # Whichever the query: relevant is what holds one of two words.
    good = ("red", "green")
    asked = recipe(base, "reranker_binary", data=[{"path": "labels.jsonl"}])
    done = train(asked, device="cpu")
    lines = [line["loss"] for line in scalars()]
    assert sum(lines[-5:]) < 0.3 * sum(lines[:5])
    model = tercet.load_reranker(done.folder, precision="float32")
    rows = [(one["query"], text) for one in examples(20, 2) for text in one["neg"]]
    scores = model.score(rows)
    labels = torch.tensor([float(any(word in text.split() for word in good)) for _, text in rows])
    assert ((scores > 0.5) == labels.bool()).float().mean() > 0.95
    # A pair alone is a batch, too.
    alone = {"texts": 1, "accumulate": 3}
    train(asked | {"output": {"folder": "alone"}, "batch": alone, "steps": 2}, device="cpu")
    assert all(line["loss"] > 0 for line in scalars("alone"))


class Dense:
    """A cross-encoder of BERT's kind as its papers have it: padded, every product by itself, no dropout."""

    def __init__(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        self.bert = self.config["model_type"] == "bert"
        prefix = "bert." if self.bert else "roberta."
        self.tensors = {name.removeprefix(prefix): values for name, values in tensors.items()}

    def linear(self, name: str, values: Tensor) -> Tensor:
        return values @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def norm(self, name: str, values: Tensor) -> Tensor:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return functional.layer_norm(values, (values.shape[-1],), weight, bias, self.config["layer_norm_eps"])

    def __call__(self, texts: list[list[int]], types: list[list[int]]) -> Tensor:
        longest, heads = max(map(len, texts)), self.config["num_attention_heads"]
        padding = 0 if self.bert else self.config["pad_token_id"]
        ids = torch.tensor([text + [padding] * (longest - len(text)) for text in texts])
        kinds = torch.tensor([row + [0] * (longest - len(row)) for row in types])
        there = torch.tensor([[1.0] * len(text) + [0.0] * (longest - len(text)) for text in texts])
        positions = torch.arange(longest) + (0 if self.bert else padding + 1)
        hidden = self.tensors["embeddings.word_embeddings.weight"][ids]
        hidden = hidden + self.tensors["embeddings.position_embeddings.weight"][positions]
        hidden = hidden + self.tensors["embeddings.token_type_embeddings.weight"][kinds]
        hidden = self.norm("embeddings.LayerNorm", hidden)
        for number in range(self.config["num_hidden_layers"]):
            layer = f"encoder.layer.{number}"
            query, key, value = (
                self.linear(f"{layer}.attention.self.{part}", hidden)
                .unflatten(-1, (heads, -1))
                .transpose(1, 2)
                for part in ("query", "key", "value")
            )
            scores = query @ key.mT / query.shape[-1] ** 0.5
            scores = scores.masked_fill(there[:, None, None] == 0, float("-inf"))
            mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
            mixed = self.linear(f"{layer}.attention.output.dense", mixed)
            hidden = self.norm(f"{layer}.attention.output.LayerNorm", hidden + mixed)
            inner = functional.gelu(self.linear(f"{layer}.intermediate.dense", hidden))
            outer = self.linear(f"{layer}.output.dense", inner)
            hidden = self.norm(f"{layer}.output.LayerNorm", hidden + outer)
        dense, out = (
            ("pooler.dense", "classifier") if self.bert else ("classifier.dense", "classifier.out_proj")
        )
        return self.linear(out, torch.tanh(self.linear(dense, hidden[:, 0])))[:, 0]


def test_frozen_embeddings_of_a_reranker_are_the_tables_alone(tmp_path: Path) -> None:
    folder = tiny_reranker.write_reranker(tmp_path / "model", "xlm-roberta")
    model = open_trainable_reranker(folder, freeze_embeddings=True)
    frozen = {name for name, one in model.named_parameters() if not one.requires_grad}
    assert frozen == {f"encoder.{table}.weight" for table in ("word", "position", "token_type")}


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta"])
def test_logits_and_gradients_are_those_of_a_plain_padded_model(architecture: Any, tmp_path: Path) -> None:
    folder = tiny_reranker.write_reranker(tmp_path / "model", architecture)
    model = open_trainable_reranker(folder, dropout=0.0)
    batch = model.batch([*PAIRS, *LONG, PAIRS[0]], max_length=24)
    bounds = batch.cu_seqlens.tolist()
    rows = [slice(*ends) for ends in pairwise(bounds)]
    types = batch.token_type_ids
    assert (types is not None and int(types.sum()) > 0) is (architecture == "bert")
    kinds = torch.zeros_like(batch.token_ids) if types is None else types

    tensors = {info.name: values for info, values in model.named_tensors()}
    plain = Dense(folder, {name: one.detach().clone().requires_grad_() for name, one in tensors.items()})
    expected = plain([batch.token_ids[row].tolist() for row in rows], [kinds[row].tolist() for row in rows])
    functional.cross_entropy(expected.view(2, 3), torch.zeros(2).long()).backward()
    found = model(batch).dense[:, 0]
    functional.cross_entropy(found.view(2, 3), torch.zeros(2).long()).backward()

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    prefix = "bert." if architecture == "bert" else "roberta."
    moved = 0
    for name, parameter in tensors.items():
        theirs = plain.tensors[name.removeprefix(prefix)].grad
        if theirs is None:
            assert parameter.grad is None, name
            continue
        scale = float(theirs.abs().max())
        moved += scale > 1e-4
        torch.testing.assert_close(parameter.grad, theirs, rtol=0, atol=1e-5 * max(scale, 1e-2))
    assert moved > 0.7 * len(tensors)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta", "distilbert", "electra", "mpnet"])
def test_what_is_trained_scores_as_the_loaded_folder_before_and_after(
    architecture: Any, tmp_path: Path
) -> None:
    folder = tiny_reranker.write_reranker(tmp_path / "model", architecture)
    model = open_trainable_reranker(folder, dropout=0.0)
    learning = [one for one in model.parameters() if one.requires_grad]
    pairs = PAIRS + LONG
    for number, where in enumerate((folder, tmp_path / "saved")):
        if number:
            before = logits(model, pairs).detach()
            optimizer = torch.optim.SGD(learning, lr=0.05)
            logits(model, pairs).sum().backward()
            assert all(one.grad is not None for one in learning)
            optimizer.step()
            save_reranker(model, where, DType.FLOAT32, card="")
            assert (logits(model, pairs) - before).abs().min() > 1e-3
        loaded = tercet.load_reranker(where, precision="float32")
        for cut in ({"max_length": 24}, {"max_length": 24, "truncation": "only_second"},
                    {"max_length": 24, "truncation": "only_second", "query_max_length": 5}):  # fmt: skip
            expected = loaded.score(pairs, activation="Identity", **cut)
            torch.testing.assert_close(logits(model, pairs, **cut), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta", "distilbert", "electra", "mpnet"])
def test_an_encoder_of_every_kind_gets_a_head_and_keeps_its_pooler(architecture: Any, tmp_path: Path) -> None:
    layout = "huggingface" if architecture == "distilbert" else "sentence-transformers"
    folder = tiny.write_checkpoint(tmp_path / "base", architecture, layout=layout)
    model = open_trainable_reranker(folder, seed=3)
    saved = save_reranker(model, tmp_path / "saved", DType.FLOAT32, card="card")
    # Nothing of the stack for embeddings that its encoder came from.
    stack = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling")
    assert not any((saved / name).exists() for name in stack)
    config = json.loads((saved / "config.json").read_text())
    assert config["architectures"][0].endswith("ForSequenceClassification")
    loaded = tercet.load_reranker(saved, precision="float32")
    expected = loaded.score(PAIRS, activation="Identity")
    assert expected.std() > 0
    torch.testing.assert_close(logits(model.eval(), PAIRS), expected, atol=1e-5, rtol=1e-5)
    again, other = (open_trainable_reranker(folder, seed=seed).eval() for seed in (3, 4))
    assert torch.equal(logits(again, PAIRS), logits(model, PAIRS))
    assert not torch.equal(logits(other, PAIRS), logits(model, PAIRS))
    pooler = {"bert": "pooler.dense.weight"}.get(architecture)
    if pooler is not None:
        stored = load_file(folder / "model.safetensors")[pooler]
        assert torch.equal(model.head.dense_weight, stored)


def test_dropout_of_the_head_is_that_of_config_json_and_only_drops_while_it_trains(tmp_path: Path) -> None:
    config = {"classifier_dropout": 0.5, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    folder = tiny_reranker.write_reranker(tmp_path / "model", config=config)
    model = open_trainable_reranker(folder)
    torch.manual_seed(0)
    assert not torch.equal(logits(model, PAIRS), logits(model, PAIRS))
    model.eval()
    assert torch.equal(logits(model, PAIRS), logits(model, PAIRS))


@pytest.mark.usefixtures("here")
def test_a_reranker_learns_on_with_adapters_in_parts_and_accumulated(tmp_path: Path) -> None:
    model = tiny_reranker.write_reranker(tmp_path / "model")
    found = {}
    for name, batch in {
        "whole": {"texts": 6},
        "parts": {"texts": 6, "forward_tokens": 40},
        "accumulated": {"texts": 3, "accumulate": 2},
    }.items():
        asked = recipe(model, output={"folder": name}, steps=3, lora={"rank": 2}, batch=batch)
        asked["data"] = [{"path": "few.jsonl", "group_size": 4}]
        train(asked | {"optimizer": {"learning_rate": 1e-2, "schedule": "constant"}}, device="cpu")
        found[name] = compared(name)
    assert (found["whole"] - compared(model)).abs().max() > 0.02
    for name in ("parts", "accumulated"):
        torch.testing.assert_close(found[name], found["whole"], rtol=0, atol=1e-4)


@pytest.mark.usefixtures("here")
def test_a_reranker_that_was_interrupted_ends_as_an_unbroken_one(base: Path) -> None:
    asked = recipe(base, steps=8, dropout=0.1, checkpoints={"every": 3})
    whole = train(asked | {"output": {"folder": "whole"}}, device="cpu")

    def stop(step: int, steps: int, scalars: Any) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(asked, device="cpu", progress=stop)
    broken = train(asked, device="cpu", resume=True)
    assert broken.loss == pytest.approx(whole.loss, rel=1e-5)
    scores = [tercet.load_reranker(one, precision="float32").score(PAIRS) for one in ("out", "whole")]
    torch.testing.assert_close(*scores, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("here")
def test_two_processes_reach_the_reranker_of_one_with_the_whole_batch(base: Path) -> None:
    asked = recipe(base, steps=3, data=[{"path": "few.jsonl", "group_size": 4}])
    asked["validation"] = {"collection": "held_out.jsonl", "every": 3}
    one = train(asked | {"output": {"folder": "one"}, "batch": {"texts": 6}}, device="cpu")
    in_two(train_in_two, asked | {"output": {"folder": "two"}, "batch": {"texts": 3}})
    torch.testing.assert_close(compared("one"), compared("two"), rtol=0, atol=1e-5)
    *mine, measured = scalars("two")
    for own, theirs in zip(mine, scalars("one"), strict=False):
        assert own["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert len(mine) == 3
    assert measured["validation/reranker/ndcg@10"] == pytest.approx(one.best["chosen"])


@pytest.mark.usefixtures("here")
def test_what_a_first_stage_found_is_ranked_anew_as_evaluate_does(tmp_path: Path) -> None:
    model = tiny_reranker.write_reranker(tmp_path / "model")
    lines = [json.loads(line) for line in Path("held_out.jsonl").read_text().splitlines()][:12]
    texts = sorted({text for one in lines for text in (*one["pos"], *one["neg"])})
    Path("collection/qrels").mkdir(parents=True)
    write_lines("collection/corpus.jsonl", [{"_id": f"d{n}", "text": text} for n, text in enumerate(texts)])
    write_lines(
        "collection/queries.jsonl", [{"_id": f"q{n}", "text": one["query"]} for n, one in enumerate(lines)]
    )
    Path("collection/qrels/test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n"
        + "".join(f"q{n}\td{texts.index(one['pos'][0])}\t1\n" for n, one in enumerate(lines))
    )
    encoder = tercet.load(tiny.write_checkpoint("encoder"), precision="float32")
    report = tercet.evaluate(
        encoder, "collection", outputs="dense", metrics=["mrr@10"], runs_folder="runs",
        reranker=tercet.load_reranker(model, precision="float32", activation="Identity"), rerank_depth=7,
    )  # fmt: skip
    [run] = [path for path in Path("runs").iterdir() if "dense" in path.name]
    how = {"collection": "collection", "run": str(run), "depth": 7, "metric": "mrr@10"}
    # A rate at which nothing moves.
    asked = recipe(model, steps=1, validation=how, optimizer={"learning_rate": 1e-12})
    done = train(asked, device="cpu")
    assert done.best["reranker/mrr@10"] == pytest.approx(report["reranked"].metrics["mrr@10"])
    assert 0 < done.best["chosen"] < 1


@pytest.mark.usefixtures("here")
def test_a_reranker_given_the_loss_of_an_embedder_is_told_the_losses_of_rerankers() -> None:
    model = tiny_reranker.write_reranker(Path("reranker"))
    with pytest.raises(InputError) as caught:
        train(recipe(model, losses=[{"name": "info_nce"}]), device="cpu")
    assert str(caught.value) == (
        "reranker is a reranker, and info_nce is a loss of embedders. Take a loss of rerankers "
        "(reranker_binary, reranker_cross_entropy, reranker_distillation), or another model."
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"losses": [{"name": "reranker_binary"}, {"name": "cosent"}]}, "reranker_binary is a reranker's an"),
        ({"losses": [{"name": "cross_entropy"}]}, "of a reranker: reranker_binary, reranker_cross_entropy"),
        ({"losses": [{"name": "reranker_binary", "head": "dense"}]}, "leave head out"),
        ({"losses": [{"name": "reranker_cross_entrpy"}]}, "Did you mean 'reranker_cross_entropy'"),
        ({"losses": [{"name": "info_nce"}], "reranker": {}}, "none of the losses is a reranker's"),
        ({"heads": {"sparse": True}}, "Leave heads out"),
        ({"document_max_length": 40}, "reranker.max_length"),
        ({"pooling": "cls"}, "Leave pooling out"),
        ({"normalize": True}, "Leave normalize out"),
        ({"include_prompt": False}, "Leave include_prompt out"),
        ({"lora": {"folder": "adapters"}}, "Leave lora.folder out"),
        ({"reranker": {"query_max_length": 9}}, "truncation: only_second"),
        ({"reranker": {"max_lenght": 9}}, "Did you mean 'max_length'"),
        ({"validation": {"collection": "held_out.jsonl", "head": "dense"}}, "Leave validation.head out"),
        ({"validation": {"collection": "held_out.jsonl", "metric": "ndgc@10"}}, "Did you mean 'ndcg'"),
        ({"validation": {"collection": "nowhere.jsonl"}}, "nowhere.jsonl"),
        ({"data": [{"path": "learn.jsonl", "group_size": 1}]}, "learn.jsonl: group_size is 1"),
        ({"losses": [{"name": "reranker_binary"}]}, "no label, and every loss needs one"),
        ({"data": [{"path": "labels.jsonl"}]}, "such as reranker_binary"),
        ({"losses": [{"name": "reranker_distillation"}], "data": [{"path": "bare.jsonl", "group_size": 2}]},
         "bare.jsonl, line 1: there are no pos_scores"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("here")
def test_what_does_not_fit_a_reranker_is_said_before_the_first_step(
    changes: dict[str, Any], said: str, base: Path
) -> None:
    write_lines("bare.jsonl", [{"query": "the cat", "pos": ["red"], "neg": ["blue"]}])
    with pytest.raises((InputError, UnknownNameError)) as caught:
        train(recipe(base, **changes), device="cpu")
    assert said in str(caught.value)
    assert not Path("out").exists()
    assert not Path("out.run").exists()


def test_what_cannot_be_trained_as_a_reranker_is_refused(tmp_path: Path) -> None:
    several = tiny_reranker.write_reranker(tmp_path / "several", labels=3)
    with pytest.raises(CheckpointError, match="3 scores a pair"):
        open_trainable_reranker(several)
    stack = tiny.write_checkpoint(
        tmp_path / "stack", "bert", layout="sentence-transformers", do_lower_case=True
    )
    with pytest.raises(CheckpointError, match=r"stack cannot be made a reranker.*lowercases texts"):
        open_trainable_reranker(stack)
