import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.errors import InputError, OutputError
from tercet.evaluation.ranked import Ranking
from tercet.evaluation.runs import read_run, write_run
from tercet.evaluation.top import TopDocuments


@given(
    seed=st.integers(0, 2**31),
    queries=st.integers(1, 4),
    documents=st.integers(1, 40),
    depth=st.integers(1, 12),
    chunk=st.integers(1, 15),
)
def test_the_best_are_those_of_a_full_sort_however_the_chunks_are_cut(seed, queries, documents, depth, chunk):
    generator = np.random.default_rng(seed)
    ids = [str(name) for name in generator.permutation(documents * 3)[:documents]]
    scores = torch.from_numpy(generator.integers(0, 5, (queries, documents)) / 4)
    scores[generator.random((queries, documents)) < 0.1] = -torch.inf
    top = TopDocuments(queries, depth)
    for first in range(0, documents, chunk):
        top.add(ids[first : first + chunk], scores[:, first : first + chunk])
    for row, ranking in zip(scores.tolist(), top.rankings(), strict=True):
        pairs = [pair for pair in zip(row, ids, strict=True) if pair[0] > -np.inf]
        assert list(ranking.ids) == [name for _, name in sorted(pairs, reverse=True)][:depth]


def test_ids_that_no_query_wants_are_forgotten():
    top = TopDocuments(2, 3)
    for chunk in range(50):
        scores = torch.full((2, 10), float(chunk % 7)) + torch.arange(10) / 16
        top.add([f"{chunk}-{place}" for place in range(10)], scores)
        assert len(top._ids) <= 6
    assert next(top.rankings()).ids == ("6-9", "48-9", "41-9")


def test_a_run_file_brings_back_the_same_ranking(tmp_path):
    generator = np.random.default_rng(3)
    values = generator.standard_normal(200).astype(np.float32)
    values[50:90] = values[50]
    run = {
        "q1": Ranking.of({f"d{i}": float(v) for i, v in enumerate(values)}),
        "é#2": Ranking.of({"151236#1": 1 / 3, "b": -1e-30}),
    }
    write_run(tmp_path / "run.trec", run, "tercet of today")
    lines = (tmp_path / "run.trec").read_text(encoding="utf-8").splitlines()
    assert lines[200] == "é#2 Q0 151236#1 1 0.333333343 tercet_of_today"
    assert [len(line.split()) for line in lines] == [6] * 202
    found = read_run(tmp_path / "run.trec")
    assert list(found) == ["q1", "é#2"]
    for query, ranking in run.items():
        assert found[query].ids == ranking.ids
        assert np.array_equal(found[query].scores, ranking.scores)


def test_a_run_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="document id 'a b' has white space"):
        write_run(tmp_path / "run", {"q": Ranking.of({"ok": 2.0, "a b": 1.0})}, "x")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="The folder is not there"):
        write_run(tmp_path / "none" / "run", {}, "x")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("q Q0 d 1 0.5 s\nq Q0 e 2 0.4\n", "run.trec, line 2: 5 columns"),
        ("q Q0 d 1 0.5 s\nq Q0 e 2 high s\n", "line 2: the score is 'high'"),
        ("q Q0 d 1 nan s\n", "line 1: the score is 'nan'"),
        ("q Q0 d 1 0.5 s\n\nq Q0 d 2 0.4 s\n", "line 3: document 'd' comes a second time for query 'q'"),
        ("", "there is no line in it"),
    ],
)
def test_a_bad_line_of_a_run_is_named(tmp_path, lines, message):
    path = tmp_path / "run.trec"
    path.write_text(lines)
    with pytest.raises(InputError) as caught:
        read_run(path)
    assert message in str(caught.value)
