import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap, permutation_test

from tercet.errors import InputError
from tercet.evaluation.significance import paired_bootstrap, paired_randomization


def metric(queries, shift=0.0, seed=0):
    generator = np.random.default_rng(seed)
    reference = generator.uniform(0, 1, queries)
    return reference, reference + shift + 0.1 * generator.standard_normal(queries)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_few_queries_are_tested_exactly_by_every_assignment_of_signs(differences):
    found = paired_randomization([0.0] * len(differences), differences)
    observed = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    assert found.exact
    assert found.p_value == pytest.approx(np.mean([total >= observed for total in sums]))
    assert found.pairs == len(differences)


def test_a_change_that_is_always_the_same_is_as_unlikely_as_it_can_be():
    found = paired_randomization([0.5] * 10, [0.4] * 10)
    assert found.p_value == 2 / 2**10
    assert found.difference == pytest.approx(-0.1)
    assert found.assignments == 2**10


def test_queries_that_did_not_change_make_no_difference_to_the_test():
    reference, changed = metric(12, 0.05)
    unchanged = np.linspace(0, 1, 500)
    alone = paired_randomization(reference, changed)
    among = paired_randomization([*unchanged, *reference], [*unchanged, *changed])
    assert alone.exact
    assert among.exact
    assert among.p_value == alone.p_value
    assert among.difference == pytest.approx(alone.difference * 12 / 512)


def test_no_change_at_all_is_no_evidence():
    found = paired_randomization([0.1, 0.2], [0.1, 0.2])
    assert (found.p_value, found.difference, found.exact) == (1.0, 0.0, True)


@pytest.mark.parametrize("shift", [0.0, 0.02, 0.2])
def test_many_queries_are_tested_as_scipy_tests_them(shift):
    reference, changed = metric(60, shift)
    found = paired_randomization(reference, changed, samples=20_000)
    theirs = permutation_test(
        (changed - reference,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1
    ).pvalue
    assert not found.exact
    assert found.p_value == pytest.approx(theirs, abs=5 * math.sqrt(0.25 / 20_000) + 1e-4)


def test_a_p_value_is_never_0_and_the_same_for_the_same_seed():
    reference, changed = metric(200, 1.0)
    assert paired_randomization(reference, changed, samples=99).p_value == 0.01
    reference, changed = metric(200, 0.005)
    one, again, other = (paired_randomization(reference, changed, seed=seed) for seed in (3, 3, 4))
    assert one == again
    assert one.p_value != other.p_value


def test_where_nothing_changes_the_test_cries_wolf_as_often_as_it_says():
    p_values = [paired_randomization(*metric(30, seed=seed), samples=400).p_value for seed in range(300)]
    # 300 tests at a level of 10 %: 30, with a deviation of 5.2.
    assert 12 <= sum(p_value <= 0.1 for p_value in p_values) <= 48


def test_a_bootstrap_interval_is_scipys_up_to_chance():
    reference, changed = metric(80, 0.03)
    found = paired_bootstrap(reference, changed, level=0.9, samples=20_000)
    theirs = bootstrap(
        (changed - reference,), np.mean, confidence_level=0.9, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert found.difference == pytest.approx((changed - reference).mean())
    assert found.low == pytest.approx(theirs.low, abs=1e-3)
    assert found.high == pytest.approx(theirs.high, abs=1e-3)
    assert found.low < found.difference < found.high


def test_an_interval_is_wider_at_a_higher_level_and_a_point_for_equal_differences():
    reference, changed = metric(50)
    widths = [paired_bootstrap(reference, changed, level=level) for level in (0.5, 0.9, 0.99)]
    assert widths[0].high - widths[0].low < widths[1].high - widths[1].low < widths[2].high - widths[2].low
    point = paired_bootstrap([0.0] * 7, [0.25] * 7)
    assert (point.low, point.high) == (0.25, 0.25)


@pytest.mark.parametrize("test", [paired_randomization, paired_bootstrap])
def test_numbers_that_cannot_be_tested_are_refused(test):
    for reference, changed in (([], []), ([1.0], [1.0, 2.0]), ([[1.0]], [[1.0]])):
        with pytest.raises(InputError, match="one number a query on both sides"):
            test(reference, changed)
    with pytest.raises(InputError, match="query 1 has the values nan and 2"):
        test([1.0, math.nan], [1.0, 2.0])
    with pytest.raises(InputError, match="samples is 0"):
        test(*metric(40), samples=0)


@pytest.mark.parametrize("level", [0.0, 1.0, math.nan])
def test_a_level_outside_0_and_1_is_refused(level):
    with pytest.raises(InputError, match="level is"):
        paired_bootstrap([0.0], [1.0], level=level)
