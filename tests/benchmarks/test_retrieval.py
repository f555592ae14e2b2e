import json
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import (
    GOALS,
    Change,
    Collection,
    compare,
    distances,
    interval,
    met,
    ndcg,
    read_collection,
    read_judgements,
    top,
)


def test_ndcg_by_hand():
    gains = {"a": 3.0, "b": 2.0, "c": 1.0}
    found = ndcg(["b", "x", "a"], gains)
    ideal = 3 / log2(2) + 2 / log2(3) + 1 / log2(4)
    assert found == pytest.approx((2 / log2(2) + 3 / log2(4)) / ideal)


def test_ndcg_of_the_ideal_order_is_one_and_of_strangers_zero():
    gains = {"a": 3.0, "b": 1.0}
    assert ndcg(["a", "b", "x"], gains) == pytest.approx(1.0)
    assert ndcg(["x", "y"], gains) == 0.0
    assert ndcg(["x"], {"x": 0.0}) == 0.0


def test_ndcg_looks_no_further_than_its_cut_and_neither_does_the_ideal():
    gains = {str(number): 1.0 for number in range(20)}
    assert ndcg([str(number) for number in range(10)], gains, cut=10) == pytest.approx(1.0)
    assert ndcg(["x"] * 10 + ["0"], gains, cut=10) == 0.0


def test_a_gain_below_zero_gains_nothing():
    assert ndcg(["a", "b"], {"a": -1.0, "b": 1.0}) == pytest.approx(1 / log2(3))


def test_equal_documents_stand_by_descending_id_as_text():
    documents = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    [found] = top([[2.0, 0.0]], documents, ["10", "9", "3", "2"])
    assert found == ["9", "2", "10", "3"]


def test_top_is_the_order_of_cosine_whatever_the_lengths():
    documents = np.array([[10.0, 10.0], [0.1, 0.0], [0.0, 5.0]])
    assert top([[1.0, 0.1]], documents, ["a", "b", "c"], cut=2) == [["b", "a"]]


@given(st.integers(1, 6), st.integers(1, 5), st.floats(-7, -1))
def test_distance_is_one_minus_cosine_where_that_can_be_computed(rows, seed, exponent):
    generator = np.random.default_rng(seed)
    first = generator.standard_normal((rows, 8))
    second = first + 10**exponent * generator.standard_normal((rows, 8))
    cosine = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    np.testing.assert_allclose(distances(first, second), 1 - cosine, atol=1e-15)


def test_distances_far_below_the_rounding_of_one_are_told():
    first = np.array([[1.0, 0.0]])
    assert distances(first, [[1.0, 1e-10]])[0] == pytest.approx(0.5e-20, rel=1e-3)


def test_the_interval_surrounds_the_mean_and_shrinks_to_it_where_all_are_equal():
    assert interval([0.25] * 7) == (0.25, 0.25)
    values = np.random.default_rng(0).standard_normal(400)
    low, high = interval(list(values))
    assert low < values.mean() < high
    # 1.96 standard errors on either side, of 400 values of unit variance.
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.1)
    assert interval(list(values)) == (low, high)


@pytest.fixture
def collection():
    return Collection(("d0", "d1", "d2"), ("0", "1", "2"), ("q",), ("7",), {"7": {"1": 1.0}})


VECTORS = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.1, 1.0, 0.2]])


def test_what_did_not_change_has_lost_nothing(collection):
    change = compare(VECTORS, VECTORS, collection)
    assert (change.texts, change.mean, change.worst, change.overlap) == (4, 0.0, 0.0, 1.0)
    assert (change.ndcg, change.difference, change.low, change.high) == (1.0, 0.0, 0.0, 0.0)


def test_a_lost_answer_is_a_loss_of_ndcg(collection):
    moved = VECTORS.copy()
    moved[3] = [1.0, 0.5, 0.0]
    change = compare(VECTORS, moved, collection)
    assert change.reference_ndcg == 1.0
    assert change.ndcg == pytest.approx(1 / log2(3))
    assert change.difference == pytest.approx(1 / log2(3) - 1)
    assert change.worst == distances(VECTORS[3:], moved[3:])[0]


def test_overlap_counts_those_that_stayed_in_the_top_ten():
    documents = tuple(str(number) for number in range(12))
    vectors = np.eye(13)[:, :12]
    vectors[12] = np.linspace(1.0, 2.0, 12)  # the query likes the later ones
    moved = vectors.copy()
    moved[12] = vectors[12, ::-1]  # and now the earlier ones
    change = compare(vectors, moved, Collection(documents, documents, ("q",), ("q",), {}))
    assert change.overlap == 0.8
    assert change.ndcg is None


def test_without_queries_there_are_distances_alone(collection):
    bare = Collection(collection.documents, collection.document_ids, (), (), {})
    assert compare(VECTORS[:3], VECTORS[:3], bare) == Change(3, 0.0, 0.0)


def test_vectors_of_other_texts_are_refused(collection):
    with pytest.raises(ValueError, match="3 vectors for 3 documents and 1 queries"):
        compare(VECTORS[:3], VECTORS[:3], collection)


def test_goals_are_met_at_their_limits_and_not_beyond():
    limits = GOALS["int8"]
    at = Change(1, limits.mean, limits.worst, limits.overlap, 0.4, 0.4, -limits.ndcg, 0.0, 0.0)
    assert set(met("int8", at).values()) == {True}
    beyond = Change(1, 2 * limits.mean, 1.0, 0.9, 0.4, 0.4, 0.1, 0.0, 0.0)
    assert met("int8", beyond) == dict.fromkeys(("mean", "worst", "overlap", "ndcg"), False)
    assert met("bfloat16", at) == {}
    assert set(met("int8", Change(1, 0.0, 0.0))) == {"mean", "worst"}


@pytest.fixture
def folder(tmp_path):
    def lines(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    documents = [("1", "Wings", "of aircraft"), ("2", "", ""), ("3", "Heat", "in slabs")]
    lines("corpus.jsonl", [{"_id": i, "title": title, "text": text} for i, title, text in documents])
    lines("queries.jsonl", [{"_id": "a", "text": "wings"}, {"_id": "b", "text": "heat"}])
    (tmp_path / "qrels").mkdir()
    rows = "query-id\tcorpus-id\tscore\na\t1\t2\nb\t3\t1\nb\t1\t0\n"
    (tmp_path / "qrels" / "test.tsv").write_text(rows, encoding="utf-8")
    return tmp_path


def test_a_collection_is_read_with_its_judgements(folder):
    found = read_collection(folder)
    assert found.documents == ("Wings of aircraft", ".", "Heat in slabs")
    assert found.queries == ("wings", "heat")
    assert found.judgements == {"a": {"1": 2.0}, "b": {"3": 1.0, "1": 0.0}}


def test_of_a_sample_the_queries_are_those_that_it_answers(folder):
    found = read_collection(folder, 2)
    assert found.document_ids == ("1", "2")
    assert found.query_ids == ("a",)
    assert found.judgements == {"a": {"1": 2.0}}


def test_a_folder_of_another_layout_is_told(tmp_path):
    with pytest.raises(SystemExit, match=r"corpus\.jsonl is not there.*BEIR"):
        read_collection(tmp_path)


def test_a_judgement_of_two_columns_is_told_with_its_line(folder):
    path = folder / "qrels" / "test.tsv"
    path.write_text("query-id\tcorpus-id\tscore\na\t1\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"test\.tsv, line 2: 2 columns"):
        read_judgements(path)
