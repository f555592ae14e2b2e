"""The recipe of the packaged heads: texts, pairs, training, picture and table, on a few texts."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

import tercet

EXAMPLES = Path(__file__).parents[2] / "examples"
RECORDED = Path(__file__).parents[1] / "recorded" / "texts.json"


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("tri_vector_pairs")


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("train_tri_vector")


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("draw_tri_vector")


def test_packages_give_synopsis_and_sentences_and_nothing_where_there_is_no_apt(
    pairs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = (
        "Package: a\nDescription-en: tool for wings\n First sentence. Second one,\n over two lines.\n .\n"
        "  * an item\nHomepage: x\n\nPackage: b\nDescription: no long one\n"
    )
    program = tmp_path / "apt-cache"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{records}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (found,) = pairs.packages()
    assert found.title == "tool for wings"
    assert found.sentences == ("First sentence.", "Second one, over two lines.", "* an item")
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert list(pairs.packages()) == []


def test_a_sentence_that_many_texts_share_is_in_none_of_them(
    pairs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = "This package contains the shared library of all of them."
    own = [f"Text number {n} speaks of the matter {n} in a dozen words or a few more." for n in range(4)]
    found = [pairs.Source(f"title {n}", (common, text), "debian") for n, text in enumerate(own)]
    monkeypatch.setattr(pairs, "docstrings", lambda: iter(()))
    monkeypatch.setattr(pairs, "packages", lambda options: iter(found))
    assert [source.sentences for source in pairs.sources()] == [(text,) for text in own]


def test_pairs_never_hold_their_query_and_are_the_same_for_a_seed(pairs: ModuleType) -> None:
    texts = [
        pairs.Source(f"title {n}", tuple(f"sentence {m} of the text number {n}." for m in range(3)), "debian")
        for n in range(50)
    ]
    made = pairs.make_pairs(texts, 1)
    assert made == pairs.make_pairs(texts, 1) != pairs.make_pairs(texts, 2)
    assert all(pair.query not in pair.passage for pair in made)
    assert {pair.query.startswith("title") for pair in made} == {True, False}
    asked = pairs.as_questions(made, 3)
    assert [pair.passage for pair in asked] == [pair.passage for pair in made]
    assert 0 < sum(pair.query.endswith("?") for pair in asked) < len(asked)


def test_heads_are_trained_written_and_drawn(
    train: ModuleType, draw: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = importlib.import_module("tri_vector_pairs")
    texts = json.loads(RECORDED.read_text(encoding="utf-8"))
    found = [
        pairs.Source(title, tuple(pairs.split(body)), "stdlib")
        for title, _, body in (text.partition("\n\n") for text in texts)
    ]
    monkeypatch.setattr(train, "sources", lambda options: [source for source in found if source.sentences])
    settings = train.Settings(
        pairs=100,
        shortest=5,
        max_length=48,
        held_out=30,
        asked=30,
        steps=24,
        groups=3,
        near=5,
        nearest=8,
        rate=2e-2,
    )
    train.run(settings, tmp_path, [])
    sparse = torch.load(tmp_path / "sparse_linear.pt", weights_only=True)
    colbert = torch.load(tmp_path / "colbert_linear.pt", weights_only=True)
    assert {name: tuple(value.shape) for name, value in sparse.items()} == {"weight": (1, 384), "bias": (1,)}
    assert {name: tuple(each.shape) for name, each in colbert.items()} == {"weight": (96, 384), "bias": (96,)}
    log = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))
    assert log["settings"]["held_out"] == log["settings"]["asked"] == 25  # fewer than asked for, of so few
    assert log["steps"] == list(range(1, 25))
    assert log["measured_at"] == [0, 6, 12, 18, 24]
    totals = [sum(losses) for losses in zip(*log["losses"].values(), strict=True)]
    assert sum(totals[-8:]) < sum(totals[:8])
    assert log["ndcg"]["sparse"][-1] > log["ndcg"]["sparse"][0]
    assert log["ndcg"]["hybrid"][-1] >= log["ndcg"]["dense"][-1]

    assert draw.main([str(tmp_path / "training.json"), str(tmp_path / "curves.svg")]) == 0
    for name in ("curves.svg", "curves-dark.svg"):
        assert "multivector" in (tmp_path / name).read_text(encoding="utf-8")


def test_the_full_trainer_learns_the_heads_by_the_recipe_and_leaves_the_encoder_as_it_is(
    pairs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [text.partition("\n\n") for text in json.loads(RECORDED.read_text(encoding="utf-8"))]
    found = [
        pairs.Source(title, tuple(pairs.split(body * 4)), "stdlib")
        for title, _, body in texts
        if len(body) > 60
    ]
    monkeypatch.setattr(pairs, "sources", lambda options: found)
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((EXAMPLES / "tri_vector.yaml").read_text(encoding="utf-8"))
    folder = Path(values["data"][0]["path"]).parent
    assert pairs.main(["-o", str(folder), "--pairs", "40", "--held-out", "8", "--asked", "6"]) == 0
    assert "32 pairs to learn from and 8 held out" in capsys.readouterr().out
    held_out = Path(values["validation"]["collection"])
    learned = [json.loads(line) for line in (folder / "learn.jsonl").read_text().splitlines()]
    corpus = [json.loads(line)["text"] for line in (held_out / "corpus.jsonl").read_text().splitlines()]
    assert len(learned) == 32
    assert len(corpus) == 8
    assert not {line["pos"][0] for line in learned} & set(corpus)

    short = {"steps": 2, "batch": {"texts": 8}, "query_max_length": 32, "document_max_length": 32}
    done = tercet.train({**values, **short}, device="cpu")
    assert done.best["sparse/ndcg@10"] > 0
    model = tercet.load(done.folder, precision="float32", device="cpu")
    assert model.outputs == ("dense", "sparse", "multivector")
    given = tercet.load("minilm", precision="float32", device="cpu")
    torch.testing.assert_close(model.encode(corpus).dense, given.encode(corpus).dense, rtol=0, atol=1e-6)
    assert {path.name for path in done.folder.glob("*.pt")} == {"sparse_linear.pt", "colbert_linear.pt"}


def test_too_few_texts_are_one_message_of_the_pairs_too(
    pairs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pairs, "sources", lambda options: [])
    assert pairs.main(["-o", str(tmp_path / "pairs")]) == 2
    assert "0 pairs are too few to learn from. Ask for more --pairs" in capsys.readouterr().err
    assert not (tmp_path / "pairs").exists()


def test_a_folder_that_cannot_be_written_is_one_message(
    pairs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [
        pairs.Source(f"title {row}", (f"text number {row} " + "of words " * 20 + ".",), "x")
        for row in range(8)
    ]
    monkeypatch.setattr(pairs, "sources", lambda options: texts)
    (tmp_path / "file").touch()
    assert pairs.main(["-o", str(tmp_path / "file" / "pairs")]) == 2
    assert capsys.readouterr().err.endswith("Name another folder with -o.\n")


def test_too_few_texts_are_one_message_that_says_where_more_come_from(
    train: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "sources", lambda options: [])
    assert train.main(["-o", str(tmp_path / "heads")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("train_tri_vector: 0 pairs of 36 words or more are too few")
    assert "Acquire::Languages=en" in error
    assert not (tmp_path / "heads").exists()


def test_ndcg_of_own_passages_counts_ties_against_us(train: ModuleType) -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0], [5.0, 5.0, 0.0]])
    assert train.ndcg(scores) == pytest.approx((1 + 1 / 1.5849625) / 2)
