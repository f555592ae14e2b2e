import json

import numpy as np
import pytest
import torch

import tercet
import tiny_reranker
from tercet.errors import InputError, UnknownNameError
from tercet.evaluation.collection import Document
from tercet.evaluation.metrics import evaluate_run
from tercet.evaluation.ranked import Ranking
from tercet.evaluation.reranked_runs import reranked_run
from tercet.evaluation.runs import read_run
from tercet.evaluation.significance import paired_randomization
from tiny import WORDS

DEPTH = 5


@pytest.fixture(scope="module")
def model(tiny_m3):
    return tercet.load(tiny_m3, precision="float32", device="cpu")


@pytest.fixture(scope="module")
def reranker_folder(tmp_path_factory):
    return tiny_reranker.write_reranker(tmp_path_factory.mktemp("second") / "bert", "bert", scale=20.0)


@pytest.fixture(scope="module")
def reranker(reranker_folder):
    return tercet.load_reranker(reranker_folder, precision="float32", device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Thirty documents of random words and seven queries."""
    place = tmp_path_factory.mktemp("collection")
    generator = np.random.default_rng(7)
    texts = [" ".join(generator.choice(WORDS, generator.integers(1, 20))) for _ in range(30)]
    queries = [" ".join(generator.choice(WORDS, 4)) for _ in range(7)]
    for name, rows in (("corpus", texts), ("queries", queries)):
        lines = [json.dumps({"_id": f"{name[0]}{i}", "text": text}) + "\n" for i, text in enumerate(rows)]
        (place / f"{name}.jsonl").write_text("".join(lines))
    judged = [
        f"q{query}\tc{document}\t{generator.integers(0, 3)}\n"
        for query in range(7)
        for document in generator.choice(30, 6, replace=False)
    ]
    (place / "qrels").mkdir()
    (place / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
    return place


def by_length(pairs):
    return torch.tensor([float(len(document)) for _, document in pairs])


def texts(**named):
    return [Document(name, text, "made") for name, text in named.items()]


def test_the_best_are_ranked_anew_and_the_others_keep_their_order_below():
    run = {
        "q": Ranking.of({"a": 9.0, "b": 8.0, "c": 7.0, "d": 6.0, "e": 6.0}),
        "none": Ranking.of({}),
        "few": Ranking.of({"a": 1.0, "b": 0.5}),
    }
    documents = texts(a="x", b="xxx", c="xx", d="xxxxxxxx", e="xxxxxxxxx")
    done = []
    found = reranked_run(
        by_length,
        run,
        texts(q="1", none="2", few="3"),
        iter(documents),
        depth=3,
        where="a run",
        progress=lambda *part: done.append(part),
    )
    assert found["q"].ids == ("b", "c", "a", "e", "d")  # of e and d, equal before, the first stage's order
    assert found["q"].scores.tolist() == [3.0, 2.0, 1.0, 0.0, -1.0]
    assert found["none"].ids == ()
    assert found["few"].ids == ("b", "a")
    assert done == [(0, 0.0), (3, pytest.approx(1 / 3)), (0, pytest.approx(2 / 3)), (2, 1.0)]
    assert list(found) == list(run)


def test_a_collection_is_searched_and_then_ranked_anew(model, reranker, folder, tmp_path):
    options = {"metrics": ["ndcg@5", "recall@5", "recall@20", "mrr"], "outputs": "dense"}
    report = tercet.evaluate(
        model, folder, reranker=reranker, rerank_depth=DEPTH, runs_folder=tmp_path / "runs", **options
    )
    assert [system.name for system in report.systems] == ["dense", "reranked"]
    before, after = (read_run(tmp_path / "runs" / f"{name}.trec") for name in ("dense", "reranked"))
    queries, documents = (
        {row["_id"]: row["text"] for row in map(json.loads, (folder / name).read_text().splitlines())}
        for name in ("queries.jsonl", "corpus.jsonl")
    )
    moved = 0
    for query, ranking in after.items():
        best = [documents[name] for name in before[query].ids[:DEPTH]]
        ranked = [before[query].ids[one.index] for one in reranker.rank(queries[query], best)]
        moved += ranked != list(before[query].ids[:DEPTH])
        assert list(ranking.ids[:DEPTH]) == ranked
        assert ranking.ids[DEPTH:] == before[query].ids[DEPTH:]
    assert moved  # else nothing was tested
    # What was found stays found; only ranks differ.
    dense, reranked = report["dense"], report["reranked"]
    assert reranked.metrics["recall@20"] == dense.metrics["recall@20"]
    assert reranked.metrics["recall@5"] == pytest.approx(dense.metrics["recall@5"])
    assert reranked.metrics["ndcg@5"] != dense.metrics["ndcg@5"]
    qrels = {}
    for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        qrels.setdefault(query, {})[document] = int(grade)
    wanted = evaluate_run(after, qrels, ["ndcg@5"])
    assert reranked.metrics["ndcg@5"] == pytest.approx(wanted.means["ndcg@5"])
    test = paired_randomization(dense.per_query["ndcg@5"], reranked.per_query["ndcg@5"])
    assert report.work["changes"]["ndcg@5"] == {"difference": test.difference, "p_value": test.p_value}
    assert report.work["pairs"] == 7 * DEPTH
    plain = tercet.evaluate(model, folder, **options)
    assert plain["dense"].metrics == dense.metrics
    assert "reranked" not in [system.name for system in plain.systems]


def test_of_several_systems_hybrid_is_the_first_stage_or_the_one_that_is_named(model, reranker, folder):
    for named in (None, "sparse", "rrf"):
        report = tercet.evaluate(
            model, folder, reranker=reranker, rerank_depth=1, first_stage=named, metrics=["mrr"], depth=20
        )
        first = named or "hybrid"
        assert report.settings["reranker"]["first_stage"] == first
        # One document ranked anew stays where it was.
        assert report["reranked"].per_query == report[first].per_query


def test_candidates_are_ranked_anew_too(model, reranker, tmp_path):
    path = tmp_path / "candidates.jsonl"
    generator = np.random.default_rng(3)
    rows = [
        {
            "query": " ".join(generator.choice(WORDS, 3)),
            "pos": [" ".join(generator.choice(WORDS, 5))],
            "neg": [" ".join(generator.choice(WORDS, 5)) for _ in range(6)],
        }
        for _ in range(6)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = tercet.evaluate(model, path, outputs="dense", reranker=reranker, metrics=["mrr"])
    wanted = []
    for row in rows:
        ranked = reranker.rank(row["query"], [*row["pos"], *row["neg"]])
        wanted.append(1 / (1 + [one.index for one in ranked].index(0)))
    assert list(report["reranked"].per_query["mrr"]) == pytest.approx(wanted)
    assert report["reranked"].per_query["mrr"] != report["dense"].per_query["mrr"]
    assert report.work["pairs"] == 42


def test_what_decides_a_figure_of_the_second_stage_is_part_of_what_is_kept(
    model, reranker, reranker_folder, folder, tmp_path
):
    options = {"outputs": "dense", "metrics": ["mrr"]}
    first = tercet.evaluate(model, folder, reranker=reranker, rerank_depth=7, **options)
    assert tercet.evaluate(model, folder, reranker=reranker, rerank_depth=7, **options).stored
    assert not tercet.evaluate(model, folder, reranker=reranker, rerank_depth=8, **options).stored
    other = tiny_reranker.write_reranker(tmp_path / "other", "bert", scale=20.0, seed=1)
    given = [other, lambda: tercet.load_reranker(reranker_folder, precision="float32", activation="Identity")]
    for one in given:
        assert not tercet.evaluate(model, folder, reranker=one, rerank_depth=7, **options).stored
    # The same model under another name is the same model.
    copied = tiny_reranker.write_reranker(tmp_path / "again", "bert", scale=20.0)
    again = tercet.evaluate(
        model,
        folder,
        reranker=lambda: tercet.load_reranker(copied, precision="float32"),
        rerank_depth=7,
        **options,
    )
    assert again.stored
    assert [system.metrics for system in again.systems] == [system.metrics for system in first.systems]
    assert again.work["reranker"] == str(copied)


def test_mistakes_name_what_is_meant(model, reranker, folder, tmp_path):
    with pytest.raises(UnknownNameError, match=r"no system 'dnse' here\. Did you mean 'dense'"):
        tercet.evaluate(model, folder, reranker=reranker, first_stage="dnse")
    with pytest.raises(UnknownNameError, match="no system 'rrf' here"):
        tercet.evaluate(model, folder, outputs="dense", reranker=reranker, first_stage="rrf")
    for option in ({"rerank_depth": 3}, {"first_stage": "dense"}):
        with pytest.raises(InputError, match="belongs to reranker, which ranks anew"):
            tercet.evaluate(model, folder, **option)
    with pytest.raises(InputError, match="rerank_depth is 0"):
        tercet.evaluate(model, folder, reranker=reranker, rerank_depth=0)
    several = tiny_reranker.write_reranker(tmp_path / "several", "bert", labels=3)
    with pytest.raises(InputError, match="gives 3 scores a pair"):
        tercet.evaluate(model, folder, reranker=several)
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("sentence1\tsentence2\tscore\na\tb\t1\nc\td\t2\n")
    with pytest.raises(InputError, match="reranker means nothing to similarity"):
        tercet.evaluate(model, pairs, reranker=reranker)
