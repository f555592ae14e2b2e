import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tercet.errors import InputError
from tercet.kernels.attention import attention, multiplies_bfloat16
from tercet.kernels.native import library

# The levels at which this kernel differs
OWN = {"scalar", "avx2", "avx512", "neon"}
LEVELS = [level for level in (library().levels if library() else ()) if level in OWN]
pytestmark = pytest.mark.skipif(not LEVELS, reason="built without native kernels")
in_bfloat16 = pytest.mark.skipif(not multiplies_bfloat16(), reason="no kernel that multiplies bfloat16 here")


def bounds_of(lengths):
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def reference(query, key, value, bounds, heads):
    out = torch.zeros(query.shape, dtype=torch.float64)
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if start == stop:
            continue
        parts = [
            rows[start:stop].double().view(stop - start, heads, -1).transpose(0, 1)
            for rows in (query, key, value)
        ]
        mixed = functional.scaled_dot_product_attention(*parts)
        out[start:stop] = mixed.transpose(0, 1).reshape(stop - start, -1)
    return out


def random_rows(tokens, hidden, seed=0, spread=1.0):
    rows = torch.randn(tokens, 3 * hidden, generator=torch.Generator().manual_seed(seed)) * spread
    return rows.chunk(3, dim=1)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("heads", "width"), [(2, 16), (3, 32), (2, 64), (2, 24), (1, 80), (1, 7), (1, 1)])
def test_it_equals_float64_at_every_length(level, heads, width):
    lengths = [1, 2, 5, 6, 7, 12, 13, 31, 0, 64, 65, 100, 511, 512, 513, 790, 3]
    query, key, value = random_rows(sum(lengths), heads * width)
    bounds = bounds_of(lengths)
    expected = reference(query, key, value, bounds, heads)
    found = attention(query, key, value, bounds, heads, level=level)
    assert (found - expected).abs().max() < 4e-6


@pytest.mark.parametrize("level", LEVELS)
@given(
    lengths=st.lists(st.integers(0, 40), max_size=6),
    heads=st.integers(1, 3),
    width=st.integers(1, 40),
    spread=st.sampled_from([0.0, 1e-3, 1.0, 30.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30, deadline=None)
def test_it_equals_float64_at_random_shapes_and_sizes(level, lengths, heads, width, spread, seed):
    query, key, value = random_rows(sum(lengths), heads * width, seed, spread)
    bounds = bounds_of(lengths)
    expected = reference(query, key, value, bounds, heads)
    found = attention(query, key, value, bounds, heads, level=level)
    # A score's rounding moves its weight by as much; scores grow with the square of the spread.
    bound = 4e-6 * max(spread, 1e-30) * max(1.0, spread * spread * width**0.5)
    assert ((found - expected).abs() <= bound).all()


@pytest.mark.parametrize("level", LEVELS)
def test_a_text_gets_the_same_bits_in_any_company(level):
    lengths = [40, 3, 129, 700, 1, 40]
    query, key, value = random_rows(sum(lengths), 64)
    bounds = bounds_of(lengths)
    together = attention(query, key, value, bounds, 2, level=level)
    for start, length in zip(bounds.tolist(), lengths, strict=False):
        rows = slice(start, start + length)
        alone = attention(query[rows], key[rows], value[rows], bounds_of([length]), 2, level=level)
        assert torch.equal(alone, together[rows])


@pytest.mark.parametrize("level", LEVELS)
def test_threads_change_no_bit(level):
    lengths = [900, 30, 77]
    query, key, value = random_rows(sum(lengths), 96)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(attention(query, key, value, bounds_of(lengths), 3, level=level))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_not_finite_stays_so_and_stays_in_its_text(level, poison, which):
    lengths = [20, 600, 9]
    rows = [part.clone() for part in random_rows(sum(lengths), 32)]
    rows[which][300, 3] = poison
    bounds = bounds_of(lengths)
    found = attention(*rows, bounds, 2, level=level)
    expected = reference(*rows, bounds, 2)
    assert not torch.isfinite(found[20:620]).all()
    assert (torch.isfinite(found) | ~torch.isfinite(expected)).all()
    assert (found[torch.isfinite(expected)] - expected[torch.isfinite(expected)]).abs().max() < 1e-5


@pytest.mark.parametrize("level", LEVELS)
def test_scores_far_apart_pick_one_value(level):
    query = torch.zeros(40, 32)
    key = torch.zeros(40, 32)
    query[:, 0], key[7, 0] = 1e4, 1e4
    value = torch.arange(40.0)[:, None].expand(40, 32).contiguous()
    found = attention(query, key, value, bounds_of([40]), 1, level=level)
    assert torch.equal(found, torch.full((40, 32), 7.0))


@pytest.mark.parametrize("level", LEVELS)
def test_rows_behind_the_last_text_are_zero(level):
    query, key, value = random_rows(12, 32)
    found = attention(query, key, value, bounds_of([9]), 2, level=level)
    assert not found[9:].any()


def test_no_text_gives_no_row():
    query, key, value = random_rows(0, 32)
    assert attention(query, key, value, bounds_of([]), 2).shape == (0, 32)


def test_rows_and_bounds_that_the_kernel_cannot_read_are_refused():
    rows, bounds = torch.randn(5, 8), bounds_of([2, 3])
    with pytest.raises(InputError, match=r"key is .*columns of a row side by side"):
        attention(rows, torch.randn(8, 5).t(), rows, bounds, 2)
    with pytest.raises(InputError, match=r"value is .*float64.*not \(5, 8\)"):
        attention(rows, rows, rows.double(), bounds, 2)
    with pytest.raises(InputError, match=r"bounds are torch\.int64.*Batch\.cu_seqlens"):
        attention(rows, rows, rows, bounds.long(), 2)


def rounded(rows):
    return rows.to(torch.bfloat16).double()


def rounded_reference(query, key, value, bounds, heads):
    """Queries scaled for powers of two, keys, values and weights rounded to bfloat16; all else is exact."""
    width = query.shape[1] // heads
    factor = torch.tensor(width**-0.5, dtype=torch.float32) * torch.tensor(1.44269504088896341)
    out = torch.zeros(query.shape, dtype=torch.float64)
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        queries, keys, values = (
            rounded(rows[start:stop]).view(stop - start, heads, width).transpose(0, 1)
            for rows in (query * factor, key, value)
        )
        if start == stop:
            continue
        weights = []
        scores = queries @ keys.transpose(1, 2)
        # Weights are rounded against the largest score so far, block by block of 256 keys.
        for end in range(256, stop - start + 256, 256):
            largest = scores[:, :, :end].amax(2, keepdim=True)
            weights = [part * torch.exp2(before - largest) for part, before in weights]
            block = rounded(torch.exp2(scores[:, :, end - 256 : end] - largest))
            weights = [(part, largest) for part in (*weights, block)]
        whole = torch.cat([part for part, _ in weights], 2)
        mixed = (whole / whole.sum(2, keepdim=True)) @ values
        out[start:stop] = mixed.transpose(0, 1).reshape(stop - start, -1)
    return out


@in_bfloat16
@pytest.mark.parametrize(("heads", "width"), [(2, 16), (3, 32), (2, 64), (2, 24), (1, 80), (1, 7), (1, 1)])
def test_in_bfloat16_it_is_what_the_rounded_factors_give(heads, width):
    lengths = [1, 2, 5, 6, 7, 12, 13, 31, 0, 64, 65, 100, 511, 512, 513, 790, 3]
    query, key, value = random_rows(sum(lengths), heads * width)
    bounds = bounds_of(lengths)
    found = attention(query, key, value, bounds, heads, bfloat16=True)
    # Where the polynomial's 1e-4 tips a weight to the next bfloat16, it moves by 2**-8 of itself.
    error = (found - rounded_reference(query, key, value, bounds, heads)).abs()
    assert error.max() < 1e-2
    assert error.mean() < 5e-5
    exact = reference(query, key, value, bounds, heads)
    assert ((found - exact).norm() / exact.norm()) < 1e-2


@in_bfloat16
@given(
    lengths=st.lists(st.integers(0, 40), max_size=6),
    heads=st.integers(1, 3),
    width=st.integers(1, 40),
    spread=st.sampled_from([0.0, 1e-3, 1.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_in_bfloat16_it_stays_within_its_rounding_at_random_shapes(lengths, heads, width, spread, seed):
    query, key, value = random_rows(sum(lengths), heads * width, seed, spread)
    bounds = bounds_of(lengths)
    found = attention(query, key, value, bounds, heads, bfloat16=True)
    # A score of about 20 at the most moves by 2**-8 of its terms, a value and its weight by 2**-9.
    error = (found - reference(query, key, value, bounds, heads)).abs()
    assert (error <= 0.15 * max(1e-30, spread)).all()


@in_bfloat16
def test_in_bfloat16_a_text_gets_the_same_bits_in_any_company():
    lengths = [40, 3, 129, 700, 1, 40]
    query, key, value = random_rows(sum(lengths), 64)
    bounds = bounds_of(lengths)
    together = attention(query, key, value, bounds, 2, bfloat16=True)
    for start, length in zip(bounds.tolist(), lengths, strict=False):
        rows = slice(start, start + length)
        alone = attention(query[rows], key[rows], value[rows], bounds_of([length]), 2, bfloat16=True)
        assert torch.equal(alone, together[rows])


@in_bfloat16
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf"), 3.4e38])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_in_bfloat16_what_is_not_finite_stays_so_and_stays_in_its_text(poison, which):
    lengths = [20, 600, 9]
    rows = [part.clone() for part in random_rows(sum(lengths), 32)]
    rows[which][300, 3] = poison
    bounds = bounds_of(lengths)
    found = attention(*rows, bounds, 2, bfloat16=True)
    clean = attention(*random_rows(sum(lengths), 32), bounds, 2, bfloat16=True)
    if poison != 3.4e38:
        assert not torch.isfinite(found[20:620]).all()
    assert torch.equal(found[:20], clean[:20])
    assert torch.equal(found[620:], clean[620:])


@in_bfloat16
def test_in_bfloat16_equal_scores_give_the_mean_and_far_ones_pick_one_value():
    value = torch.arange(40.0)[:, None].expand(40, 32).contiguous()  # exact in bfloat16
    nothing = torch.zeros(40, 32)
    assert torch.equal(
        attention(nothing, nothing, value, bounds_of([40]), 1, bfloat16=True), torch.full((40, 32), 19.5)
    )
    query, key = torch.zeros(40, 32), torch.zeros(40, 32)
    query[:, 0], key[7, 0] = 1e4, 1e4
    assert torch.equal(
        attention(query, key, value, bounds_of([40]), 1, bfloat16=True), torch.full((40, 32), 7.0)
    )


def test_without_its_instruction_nothing_multiplies_bfloat16(monkeypatch):
    monkeypatch.setenv("TERCET_KERNELS", "avx512_vnni" if "avx512" in LEVELS else LEVELS[-1])
    assert not multiplies_bfloat16()
