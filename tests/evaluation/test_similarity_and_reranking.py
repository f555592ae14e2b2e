import json

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

import tercet
from tercet.errors import InputError
from tercet.evaluation import reranking, similarity
from tercet.evaluation.candidates import read_candidates
from tercet.evaluation.correlation import pearson, spearman
from tercet.evaluation.similarity import is_similarity, read_pairs
from tiny import WORDS

PAIRS = [
    ("the cat is on the bridge", "a cat on the bridge", 4.5),
    ("read a csv file", "open the csv file", 4.0),
    ("Paris is a city", "the fish and the bird", 0.5),
    ("red green blue", "red green blue", 5.0),
    ("wait for the task", "London and Berlin", 0.5),
]
numbers = st.lists(
    st.sampled_from([0.0, 1.0, 2.5, -3.0, 7.0]) | st.floats(-100, 100), min_size=3, max_size=30
)


@pytest.fixture(scope="module")
def model(tiny_m3):
    return tercet.load(tiny_m3, precision="float32", device="cpu")


@given(left=numbers, seed=st.integers(0, 100))
@example(left=[0.09375] * 3, seed=0)  # whose mean is not one of them
def test_correlations_are_those_of_scipy_also_with_equal_numbers(left, seed):
    right = np.random.default_rng(seed).integers(0, 4, len(left)).astype(float)
    left = np.round(np.array(left), 3)
    if len(set(left)) < 2 or len(set(right)) < 2:
        assert pearson(left, right) is None
        assert spearman(left, right) is None
        return
    assert pearson(left, right) == pytest.approx(stats.pearsonr(left, right).statistic, abs=1e-9)
    assert spearman(left, right) == pytest.approx(stats.spearmanr(left, right).statistic, abs=1e-9)


def table(path, separator="\t", header=True):
    rows = [separator.join(map(str, pair)) for pair in PAIRS]
    path.write_text(
        "\n".join(([separator.join(("sentence1", "sentence2", "score"))] if header else []) + rows) + "\n"
    )
    return path


def benchmark(path):
    rows = [f"main-news\tf\t2012\t{i:04}\t{score}\t{a}\t{b}" for i, (a, b, score) in enumerate(PAIRS)]
    path.write_text("\n".join(rows) + "\n")
    return path


def semeval(path):
    path.write_text("".join(f"{a}\t{b}\n" for a, b, _ in PAIRS) + "never\tjudged\n")
    path.with_name("STS.gs.made.txt").write_text("".join(f"{score}\n" for *_, score in PAIRS) + "\n")
    return path


def json_lines(path):
    path.write_text("".join(json.dumps({"text1": a, "text2": b, "label": s}) + "\n" for a, b, s in PAIRS))
    return path


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("pairs.tsv", table),
        ("pairs.csv", lambda path: table(path, ",")),
        ("sts-test.csv", benchmark),
        ("STS.input.made.txt", semeval),
        ("pairs.jsonl", json_lines),
    ],
)
def test_every_form_gives_the_same_pairs(name, make, tmp_path):
    path = make(tmp_path / name)
    assert is_similarity(path)
    assert [tuple(pair) for pair in read_pairs(path)[0]] == PAIRS


def test_similarity_is_correlated_by_every_score(model, tmp_path, monkeypatch):
    monkeypatch.setattr(similarity, "_CHUNK_PAIRS", 2)
    report = tercet.evaluate(model, table(tmp_path / "pairs.tsv"), refresh=True)
    assert report.task == "similarity"
    first, second, gold = zip(*PAIRS, strict=True)
    left, right = (model.encode(side).dense.double() for side in (first, second))
    scores = {
        "cosine": torch.cosine_similarity(left, right),
        "dot": (left * right).sum(1),
        "euclidean": -(left - right).norm(dim=1),
        "manhattan": -(left - right).abs().sum(1),
    }
    both = model.score(first, second, pairwise=True)
    scores |= {"sparse": both.sparse, "multivector": both.multivector, "hybrid": both.combined}
    assert [system.name for system in report.systems] == list(scores)
    for name, values in scores.items():
        assert report[name].metrics["spearman"] == pytest.approx(
            stats.spearmanr(values, gold).statistic, abs=1e-6
        )
        assert report[name].metrics["pearson"] == pytest.approx(
            stats.pearsonr(values, gold).statistic, abs=1e-5
        )
    assert tercet.evaluate(model, tmp_path / "pairs.tsv").stored


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "sentence1\tsentence2\tscore\na\tb\thigh\n", "a.tsv, line 2: the score is 'high'"),
        ("a.tsv", "sentence1\tsentence2\tscore\na\tb\tnan\n", "a.tsv, line 2: the score is 'nan'"),
        ("a.tsv", "sentence1\tother\tscore\na\tb\t1\n", "no column for the second text: name it sentence2"),
        ("a.tsv", "sentence1\tsentence2\tscore\na\tb\t1\nc\td\t1\n", "nothing can correlate"),
        (
            "a.jsonl",
            '{"text1": "a", "text2": 5, "score": 1}\n',
            "a.jsonl, line 1: 'text1' and 'text2' must both",
        ),
        ("STS.input.x.txt", "a\tb\n", "STS.gs.x.txt: no such file"),
    ],
)
def test_a_bad_line_of_pairs_is_named(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read_pairs(tmp_path / name)
    assert message in str(caught.value)


def candidates(path, keys=("pos", "neg")):
    generator = np.random.default_rng(2)
    words = [" ".join(generator.choice(WORDS, 5)) for _ in range(90)]
    rows = []
    for query in range(9):
        mine = words[query * 9 : query * 9 + 9]
        rows.append(
            {"query": mine[0], keys[0]: mine[:2], keys[1]: [*mine[2:], words[0]] if query else mine[2:]}
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


@pytest.mark.parametrize("keys", [("pos", "neg"), ("positive", "negative")])
def test_reranking_orders_each_querys_documents_by_every_score(keys, model, tmp_path):
    rows = candidates(tmp_path / "rerank.jsonl", keys)
    report = tercet.evaluate(model, tmp_path / "rerank.jsonl", refresh=True)
    assert report.task == "reranking"
    assert report.data["queries"] == 9
    for name in ("dense", "sparse", "multivector", "hybrid"):
        values = []
        for row in rows:
            documents = [*row[keys[0]], *row[keys[1]]]
            scores = model.score([row["query"]], documents)
            found = (scores.combined if name == "hybrid" else getattr(scores, name))[0].tolist()
            # equal scores by an id that says nothing of the label
            order = sorted(zip(found, map(reranking._id, documents), range(len(documents)), strict=True))
            ranks = [rank for rank, (_, _, place) in enumerate(reversed(order), 1) if place < 2]
            values.append(sum((number + 1) / rank for number, rank in enumerate(ranks)) / 2)
        assert report[name].metrics["map"] == pytest.approx(np.mean(values), abs=1e-6)
    assert set(report["dense"].metrics) == {"map", "mrr@10", "ndcg@10"}
    assert report["dense"].metrics["mrr@10"] > 0.9  # the query's own text is among the positives


def test_a_model_that_sees_no_difference_is_not_flattered_by_labels(model, tmp_path):
    rows = [
        {"query": f"q{i}", "pos": [f"zzz {i}"], "neg": [f"zz {i} {j}" for j in range(9)]} for i in range(40)
    ]
    (tmp_path / "ties.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = tercet.evaluate(model, tmp_path / "ties.jsonl", outputs="dense", dimensions=1, refresh=True)
    # one column, normalised, is 1 or -1: everything ties
    assert report["dense"].tied == 40
    assert report["dense"].expected["mrr@10"] < 0.6
    assert report["dense"].metrics["mrr@10"] < 0.6


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": " ", "pos": ["a"]}, "line 1: the query is empty"),
        ({"query": "q", "pos": [], "neg": ["a"]}, "line 1: no positive document"),
        ({"query": "q", "pos": ["a"], "neg": ["a", "b"]}, "'a' is a positive document and a negative one"),
        ({"query": "q", "pos": [5]}, "a positive document is an int"),
        ({"query": "q", "pos": "a"}, "'pos' is a str"),
    ],
)
def test_a_bad_line_of_candidates_is_named(row, message, tmp_path):
    (tmp_path / "c.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError) as caught:
        list(read_candidates(tmp_path / "c.jsonl"))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "split means nothing to reranking"),
        ({"layout": "beir", "task": "reranking"}, "layout means nothing to reranking"),
        ({"remove_query": True}, "remove_query means nothing to reranking"),
        ({"task": "similarity", "runs_folder": "x"}, "runs_folder means nothing to similarity"),
        ({"metrics": ["ndcg@10"], "task": "similarity"}, "leave metrics out"),
    ],
)
def test_options_of_another_task_are_refused(options, message, model, tmp_path):
    candidates(tmp_path / "rerank.jsonl")
    with pytest.raises(InputError) as caught:
        tercet.evaluate(model, tmp_path / "rerank.jsonl", **options)
    assert message in str(caught.value)


def test_a_named_layout_asks_for_retrieval_among_all_documents_of_the_file(model, tmp_path):
    candidates(tmp_path / "c.jsonl")
    report = tercet.evaluate(model, tmp_path / "c.jsonl", layout="candidates", outputs="dense", refresh=True)
    assert report.task == "retrieval"
    assert report.data["documents"] == 81
    assert report["dense"].metrics["hit_rate@10"] == 1.0  # the query's own text is among them


def test_a_file_of_neither_form_is_told_both(model, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(InputError, match="neither pairs with scores"):
        tercet.evaluate(model, tmp_path / "a.jsonl")
