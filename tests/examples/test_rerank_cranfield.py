import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import tercet
from tercet.embedder.token_vectors import token_vectors
from tercet.evaluation.layouts import open_collection
from tercet.evaluation.ranked import Ranking
from tiny import WORDS

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("rerank_cranfield")


@pytest.fixture(scope="module")
def model(tiny_bert):
    return tercet.load(tiny_bert, precision="float32", device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty documents of random words and five queries, one of them asked twice."""
    place = tmp_path_factory.mktemp("collection")
    generator = np.random.default_rng(11)
    documents = [" ".join(generator.choice(WORDS, generator.integers(1, 20))) for _ in range(20)]
    queries = [" ".join(generator.choice(WORDS, 4)) for _ in range(4)]
    for name, texts in (("corpus", documents), ("queries", [*queries, queries[0]])):
        rows = [json.dumps({"_id": f"{name[0]}{i}", "text": text}) + "\n" for i, text in enumerate(texts)]
        (place / f"{name}.jsonl").write_text("".join(rows))
    judged = [f"q{i}\tc{document}\t2\n" for i in range(5) for document in generator.choice(20, 3, False)]
    (place / "qrels").mkdir()
    (place / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
    return place


def test_late_interaction_scores_are_the_mean_of_the_best_cosines(example, model, folder):
    collection = open_collection(folder)
    ids = [document.id for document in collection.documents()]
    run = {query: Ranking.of(dict.fromkeys(ids, 0.0)) for query in collection.queries}
    late = example.LateInteraction.of(model, run, collection, depth=8)
    embedded = {text for text in late.rows if text not in collection.queries.values()}
    assert len(embedded) == 8  # of equal scores the same eight are the best of every query
    query, documents = collection.queries["q1"], sorted(embedded)
    pairs = [(query, documents[0]), (collection.queries["q2"], documents[1]), (query, documents[2])]
    for (asked, text), score in zip(pairs, late.score(pairs).tolist(), strict=True):
        left, right = (
            torch.nn.functional.normalize(token_vectors(model, [one]).vectors.vectors)
            for one in (asked, text)
        )
        # The vectors are held in float16: half a unit in the last place of 1 is 2^-12, each side.
        assert score == pytest.approx(float((left @ right.T).amax(dim=1).mean()), abs=1e-3)


def test_the_random_cross_encoder_is_a_reranker_and_the_same_for_one_seed(example, model, tmp_path):
    pairs = [("which city", "Paris is a city"), ("which city", "the cat"), ("a cat", "the cat")]
    scores = []
    for place, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / place).mkdir()
        folder = example.write_cross_encoder(tmp_path / place, model, seed=seed)
        assert tercet.plan(folder, precision="float32").scheme.label == "float32"
        scores.append(tercet.load_reranker(folder, precision="float32").score(pairs))
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])
    assert len(set(scores[0].tolist())) == 3


def test_the_whole_example_prints_each_stage_and_its_change(example, tiny_bert, folder, capsys):
    arguments = [str(folder), "--model", str(tiny_bert), "--depth", "7"]
    assert example.main(arguments) == 0
    out = capsys.readouterr().out
    assert "20 documents, 5 queries" in out
    rows = {
        name: [float(value) for value in values.split()[:3]]
        for name, values in re.findall(r"^(dense|late interaction|random cross-encoder)  +(.*)$", out, re.M)
    }
    assert list(rows) == ["dense", "late interaction", "random cross-encoder"]
    wanted = tercet.evaluate(
        tercet.load(tiny_bert, precision="float32"),
        folder,
        metrics=example.METRICS,
    )["dense"]
    assert rows["dense"] == pytest.approx([wanted.metrics[name] for name in example.METRICS], abs=5e-5)
    for name in ("late interaction", "random cross-encoder"):
        assert f"The first 7 by {name}, against dense:" in out
        section = out.partition(f"The first 7 by {name}")[2]
        change = float(re.search(r"ndcg@10 +([+-][\d.]+),", section)[1])
        assert change == pytest.approx(rows[name][0] - rows["dense"][0], abs=1.1e-4)
    assert out.count("by a paired randomisation test") == 6


def test_mistakes_are_one_message(example, folder, capsys):
    assert example.main(["/no/such/folder"]) == 2
    assert capsys.readouterr().err.startswith("rerank_cranfield: ")
    with pytest.raises(SystemExit):
        example.main([str(folder), "--depth", "0"])
    assert "--depth is 0; give 1 or more." in capsys.readouterr().err
