import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from tercet.errors import InputError, NonFiniteError
from tercet.evaluation.ranking import RankingMeter, kendall_tau, rank_biased_overlap, top_overlap

SCORES = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=25)
P = st.floats(0.05, 0.98)


@given(SCORES)
def test_tau_is_scipys(pairs):
    first, second = np.array(pairs, dtype=float).T
    found = kendall_tau(first, second)
    assume(len(set(first)) > 1 and len(set(second)) > 1)
    assert found == pytest.approx(kendalltau(first, second).statistic, abs=1e-12)
    assert kendall_tau(second, first) == found
    assert kendall_tau(first, first) == 1.0
    assert kendall_tau(first, -first) == -1.0


def test_tau_takes_infinite_scores_as_equal_to_each_other():
    first = np.array([math.inf, math.inf, 0.0, -math.inf])
    assert kendall_tau(first, np.array([3.0, 3.0, 2.0, 1.0])) == 1.0


@pytest.mark.parametrize("scores", [[], [1.0], [2.0, 2.0, 2.0]])
def test_tau_has_no_value_where_nothing_is_ordered(scores):
    assert math.isnan(kendall_tau(np.array(scores), np.array(scores)))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("", "", lambda p: 1.0),
        ("", "ab", lambda p: 0.0),
        ("abc", "abc", lambda p: 1.0),
        ("abc", "def", lambda p: 0.0),
        ("ab", "ba", lambda p: p),  # nothing in common at depth 1, everything from depth 2 on
        ("a", "ab", lambda p: 1.0),  # what is not seen agrees as what is
        ("a", "ba", lambda p: p / 2),
        # depths 1 and 2 agree wholly, depth 3 in two of three, and so do all behind it
        ("abc", "abd", lambda p: (1 - p) * (1 + p) + p**2 * 2 / 3),
        # depth 1 not at all, depth 2 by half, depth 3 by a third
        ("abc", "bde", lambda p: (1 - p) * p / 2 + p**2 / 3),
    ],
)
def test_rank_biased_overlap_is_what_a_hand_works_out(first, second, expected, p):
    assert rank_biased_overlap(first, second, p) == pytest.approx(expected(p), abs=1e-12)
    assert rank_biased_overlap(second, first, p) == pytest.approx(expected(p), abs=1e-12)


@given(st.permutations(range(9)), st.permutations(range(9)), st.integers(1, 9), P)
def test_rank_biased_overlap_is_the_endless_sum_with_the_last_agreement_carried_on(first, second, depth, p):
    first, second = first[:depth], second[:depth]
    agreement = [len(set(first[:d]) & set(second[:d])) / d for d in range(1, depth + 1)]
    endless = [*agreement, *([agreement[-1]] * 2000)]
    expected = (1 - p) * sum(p**d * value for d, value in enumerate(endless))
    assert rank_biased_overlap(first, second, p) == pytest.approx(expected, abs=1e-9)


@given(st.permutations(range(8)), st.permutations(range(12)), st.integers(0, 8), st.integers(0, 12), P)
def test_rank_biased_overlap_is_symmetric_bounded_and_1_for_itself(first, second, s, t, p):
    first, second = first[:s], second[:t]
    found = rank_biased_overlap(first, second, p)
    assert 0.0 <= found <= 1.0
    assert rank_biased_overlap(second, first, p) == found
    assert rank_biased_overlap(first, first, p) == 1.0


def test_rank_biased_overlap_of_ranks_that_cannot_be_is_refused():
    for p in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(InputError, match="give a number between 0 and 1"):
            rank_biased_overlap("ab", "ab", p)
    with pytest.raises(InputError, match="an item twice"):
        rank_biased_overlap("aba", "abc")


def test_overlap_is_a_share_of_the_longer_ranking():
    assert top_overlap([1, 2, 3, 4], [4, 3, 9]) == 0.5
    assert top_overlap([], []) == 1.0
    assert top_overlap([], [1]) == 0.0


def scores(queries=20, documents=60, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(queries, documents, generator=generator, dtype=torch.float64).to(dtype)


def change(reference, found, *cuts, k=10, **options):
    meter = RankingMeter(k, **options)
    for start, end in pairwise([0, *cuts, len(reference)]):
        meter.add(reference[start:end], found[start:end])
    return meter.change()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_rankings_against_themselves_have_not_changed(dtype):
    found = change(scores(dtype=dtype), scores(dtype=dtype))
    assert (
        found.overlap_mean
        == found.overlap_worst
        == found.rbo_mean
        == found.rbo_worst
        == found.tau_mean
        == 1.0
    )
    assert found.ties_created == found.ties_broken == found.first_changed == 0
    assert (found.queries, found.tau_queries, found.pairs) == (20, 20, 20 * 45)


def test_a_change_of_rankings_is_that_of_its_queries_one_by_one():
    reference, found = scores(), scores() + 0.3 * scores(seed=1)
    tops = [torch.argsort(side, dim=1, descending=True)[:, :10].tolist() for side in (reference, found)]
    overlaps = [len(set(a) & set(b)) / 10 for a, b in zip(*tops, strict=True)]
    rbos = [rank_biased_overlap(a, b, 0.8) for a, b in zip(*tops, strict=True)]
    taus = []
    for query, (a, b) in enumerate(zip(*tops, strict=True)):
        union = sorted(set(a) | set(b))
        taus.append(kendalltau(reference[query, union].numpy(), found[query, union].numpy()).statistic)
    whole = change(reference, found, p=0.8, most_queries=3)
    assert whole.overlap_mean == pytest.approx(np.mean(overlaps))
    assert whole.overlap_worst == min(overlaps)
    assert whole.rbo_mean == pytest.approx(np.mean(rbos))
    assert whole.tau_mean == pytest.approx(np.mean(taus))
    assert whole.first_changed == sum(a[0] != b[0] for a, b in zip(*tops, strict=True)) > 0
    assert [query for query, _ in whole.worst_queries] == np.argsort(rbos, kind="stable")[:3].tolist()
    assert change(reference, found, 3, 3, 11, p=0.8, most_queries=3) == whole
    assert whole.to_json()["k"] == 10


def test_ties_that_come_up_and_ties_that_break_are_counted_within_the_top():
    reference = torch.tensor([[5.0, 4.0, 3.0, 3.0, 0.1, 0.2]])
    found = torch.tensor([[4.0, 4.0, 4.0, 3.0, 0.1, 0.1]])
    there = change(reference, found, k=4)
    assert (there.pairs, there.ties_created, there.ties_broken) == (6, 3, 1)
    back = change(found, reference, k=4)
    assert (back.ties_created, back.ties_broken) == (1, 3)


def test_coarse_scores_create_ties():
    reference = scores(documents=500)
    assert change(reference, (reference * 4).round() / 4).ties_created > 0


def test_queries_without_order_leave_tau_without_a_value_for_them():
    reference = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    found = change(reference, reference)
    assert (found.tau_queries, found.tau_mean) == (1, 1.0)
    alone = change(reference[1:], reference[1:])
    assert (alone.tau_queries, alone.tau_mean) == (0, None)


def test_scores_that_cannot_be_compared_are_refused():
    with pytest.raises(InputError, match="k is 0"):
        RankingMeter(0)
    meter = RankingMeter(3)
    with pytest.raises(InputError, match="no query"):
        meter.change()
    with pytest.raises(InputError, match=r"not \(2, 5\) and \(2, 4\)"):
        meter.add(torch.zeros(2, 5), torch.zeros(2, 4))
    meter.add(torch.zeros(4, 5), torch.zeros(4, 5))
    broken = torch.zeros(2, 5)
    broken[1, 3] = torch.nan
    with pytest.raises(
        NonFiniteError, match=r"query 5 has no score for document 3 \(NaN\) in the other scores"
    ):
        meter.add(torch.zeros(2, 5), broken)
