from itertools import permutations
from statistics import fmean

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.errors import InputError, UnknownNameError
from tercet.evaluation.metrics import Metric, evaluate_run, parse_metrics
from tercet.evaluation.ranked import Ranking

# Ours, and trec_eval's name of the same.
ORACLE = {
    "ndcg": "ndcg",
    "ndcg@1": "ndcg_cut_1",
    "ndcg@3": "ndcg_cut_3",
    "ndcg@10": "ndcg_cut_10",
    "recall@1": "recall_1",
    "recall@5": "recall_5",
    "recall@100": "recall_100",
    "precision@1": "P_1",
    "precision@5": "P_5",
    "precision@20": "P_20",
    "map": "map",
    "map@2": "map_cut_2",
    "map@10": "map_cut_10",
    "mrr": "recip_rank",
    "hit_rate@1": "success_1",
    "hit_rate@5": "success_5",
}
SMALL = [
    "ndcg@2",
    "ndcg",
    "recall@2",
    "precision@3",
    "map",
    "map@2",
    "mrr",
    "mrr@2",
    "hit_rate@1",
    "hit_rate@3",
]

ids = st.text(alphabet="a19Zé東\U0001f600", min_size=1, max_size=3)
# few values, so that many are equal; the last two differ in float64 alone
scores = st.sampled_from([0.0, -1.0, 0.25, 0.5, 1e-30, 1.0, 1.0 + 1e-12])
runs = st.dictionaries(ids, st.dictionaries(ids, scores, min_size=1, max_size=12), min_size=1, max_size=4)
# trec_eval never returns where every grade of a query is below 0
grades = st.dictionaries(ids, st.integers(-1, 4), min_size=1, max_size=8).filter(
    lambda g: max(g.values()) >= 0
)
judgements = st.dictionaries(ids, grades, min_size=1, max_size=4)


def oracle(run, qrels, level=1):
    measures = {name.replace("_cut_", "_cut.") if "_cut_" in name else name for name in ORACLE.values()}
    measures = {name if "_cut." in name else name.replace("recall_", "recall.") for name in measures}
    return pytrec_eval.RelevanceEvaluator(qrels, measures, relevance_level=level).evaluate(run)


@given(run=runs, qrels=judgements, level=st.integers(1, 2))
def test_every_value_is_that_of_trec_eval_also_with_ties(run, qrels, level):
    expected = oracle(run, qrels, level)
    if not expected:
        with pytest.raises(InputError, match="None of the"):
            evaluate_run(run, qrels, ORACLE)
        return
    found = evaluate_run(run, qrels, ORACLE, relevance_level=level)
    assert set(found.queries) == set(expected)
    for ours, theirs in ORACLE.items():
        wanted = [expected[query][theirs] for query in found.queries]
        assert found.values[ours] == pytest.approx(wanted, abs=1e-9), ours
        assert found.means[ours] == pytest.approx(fmean(wanted), abs=1e-9)


def test_the_oracle_sees_ties_on_a_large_random_run():
    generator = np.random.default_rng(7)
    run, qrels = {}, {}
    for query in range(40):
        documents = generator.choice(5000, 300, replace=False).tolist()
        values = generator.integers(0, 60, 300) / 8
        run[f"q{query}"] = {f"d{d}": float(s) for d, s in zip(documents, values, strict=True)}
        judged = generator.choice(5000, 200, replace=False).tolist() + documents[:20]
        qrels[f"q{query}"] = {f"d{d}": int(generator.integers(0, 4)) for d in judged}
    expected = oracle(run, qrels)
    found = evaluate_run(run, qrels, ORACLE)
    assert found.tied == 40
    for ours, theirs in ORACLE.items():
        assert found.means[ours] == pytest.approx(fmean(v[theirs] for v in expected.values()), abs=1e-9)
    # the order of ids within ties matters here, so both conventions cannot agree by chance
    assert any(abs(found.means[name] - found.expected_means[name]) > 1e-4 for name in ORACLE)


@settings(max_examples=40)
@given(
    run=st.dictionaries(st.sampled_from("abcde"), st.sampled_from([1.0, 2.0]), min_size=1, max_size=5),
    grades=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3), min_size=1, max_size=6),
    gain=st.sampled_from(["linear", "exponential"]),
)
def test_tie_aware_values_are_the_mean_over_every_order_of_equal_scores(run, grades, gain):
    found = evaluate_run({"q": run}, {"q": grades}, SMALL, gain=gain)
    orders = [
        {document: rank for rank, document in enumerate(reversed(order))}
        for order in permutations(run)
        if [run[document] for document in order] == sorted(run.values(), reverse=True)
    ]
    # one query an order: the mean over the queries is then the mean over the orders
    every = evaluate_run(dict(enumerate(orders)), dict.fromkeys(range(len(orders)), grades), SMALL, gain=gain)
    assert every.tied == 0
    for name in SMALL:
        assert found.expected_means[name] == pytest.approx(every.means[name], abs=1e-9)


def test_exponential_gain_is_two_to_the_grade_less_one():
    run, grades = {"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": 1, "b": 3}}
    value = (1 + 7 / np.log2(3)) / (7 + 1 / np.log2(3))
    assert evaluate_run(run, grades, ["ndcg@5"], gain="exponential").means["ndcg@5"] == pytest.approx(value)
    linear = (1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3))
    assert evaluate_run(run, grades, ["ndcg@5"]).means["ndcg@5"] == pytest.approx(linear)


def test_equal_scores_stand_by_descending_id_in_byte_order():
    found = Ranking.of({"9": 1.0, "10": 1.0, "z": 0.5, "é": 1.0, "\U0001f600": 1.0, "\uffee": 1.0})
    assert found.ids == ("\U0001f600", "\uffee", "é", "9", "10", "z")
    assert found.scores.tolist() == [1, 1, 1, 1, 1, 0.5]


def test_queries_without_judgements_are_left_out_and_counted():
    qrels = {"a": {"1": 1}, "b": {"1": 0}, "never": {"1": 1}, "empty": {}}
    run = {"a": {"1": 1.0}, "b": {"1": 1.0}, "x": {"1": 1.0}, "empty": {"1": 1.0}}
    found = evaluate_run(run, qrels, ["mrr", "ndcg@10"])
    assert found.queries == ("a", "b")
    assert found.means == {"mrr": 0.5, "ndcg@10": 0.5}
    assert found.unjudged == ("x", "empty")
    assert found.missing == ("never",)
    complete = evaluate_run(run, qrels, ["mrr"], complete=True)
    assert complete.queries == ("a", "b", "never")
    assert complete.means["mrr"] == pytest.approx(1 / 3)
    assert complete.expected_means["mrr"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("NDCG@10", "ndcg@10"),
        ("ndcg_at_10", "ndcg@10"),
        ("ndcg_cut_10", "ndcg@10"),
        ("P_5", "precision@5"),
        ("success@1", "hit_rate@1"),
        ("hit_rate_3", "hit_rate@3"),
        ("recip_rank", "mrr"),
        ("map_cut.100", "map@100"),
        (" recall.20 ", "recall@20"),
    ],
)
def test_metrics_are_understood_in_the_peers_spellings(spelling, name):
    assert str(Metric.parse(spelling)) == name


def test_a_metric_named_twice_is_measured_once():
    assert list(map(str, parse_metrics(["P@5", "precision_5", "mrr"]))) == ["precision@5", "mrr"]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("ndgc@10", UnknownNameError, "There is no metric 'ndgc@10'. Did you mean 'ndcg'?"),
        ("recal@5", UnknownNameError, "Did you mean 'recall'?"),
        ("ndcg@-1", UnknownNameError, "Known: hit_rate, map, mrr, ndcg, precision, recall."),
        ("ndcg@0", InputError, "the first rank is 1"),
        ("precision", InputError, "for example precision@10"),
    ],
)
def test_an_unknown_metric_is_refused_with_the_nearest(name, error, message):
    with pytest.raises(error) as caught:
        Metric.parse(name)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gain": "exponental"}, "Did you mean 'exponential'?"),
        ({"relevance_level": 0}, "give 1 or more"),
        ({"metrics": []}, "give at least one"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError) as caught:
        evaluate_run({"q": {"a": 1.0}}, {"q": {"a": 1}}, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 1e300])
def test_a_score_that_has_no_rank_is_named(score):
    with pytest.raises(InputError, match="query 'q': the score of document 'b' is"):
        evaluate_run({"q": {"a": 1.0, "b": score}}, {"q": {"a": 1}})
