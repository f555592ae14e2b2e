import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tercet.kernels.native import library
from tercet.kernels.norm import layer_norm

OWN = {"scalar", "avx2", "avx512", "neon"}
LEVELS = [level for level in (library().levels if library() else ()) if level in OWN]
pytestmark = pytest.mark.skipif(not LEVELS, reason="built without native kernels")


def parts(rows, width, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=draw)
    return x, torch.randn(width, generator=draw), torch.randn(width, generator=draw)


@pytest.mark.parametrize("level", LEVELS)
@given(
    rows=st.integers(0, 9),
    width=st.integers(1, 200),
    spread=st.sampled_from([1e-3, 1.0, 1e4]),
    shift=st.sampled_from([0.0, 3.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_it_equals_float64(level, rows, width, spread, shift, seed):
    x, weight, bias = parts(rows, width, seed)
    x = (x + shift) * spread
    expected = functional.layer_norm(x.double(), (width,), weight.double(), bias.double(), 1e-5)
    found = layer_norm(x, weight, bias, 1e-5, level=level)
    # A width of 1 or 2 may cancel to nothing but rounding, which the division then makes large.
    close = (found - expected).abs() <= 5e-6 * (1 + shift)
    assert close.all() or width < 3


@pytest.mark.parametrize("level", LEVELS)
def test_a_row_gets_the_same_bits_in_any_company_and_with_any_threads(level):
    x, weight, bias = parts(900, 100)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        together = layer_norm(x, weight, bias, 1e-12, level=level)
        torch.set_num_threads(1)
        assert torch.equal(layer_norm(x, weight, bias, 1e-12, level=level), together)
        assert torch.equal(layer_norm(x[450:451], weight, bias, 1e-12, level=level), together[450:451])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("level", LEVELS)
def test_equal_numbers_become_the_bias(level):
    _, weight, bias = parts(1, 48)
    found = layer_norm(torch.full((3, 48), 7.25), weight, bias, 1e-12, level=level)
    assert torch.equal(found, bias.expand(3, 48))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so_and_stays_in_its_row(level, poison):
    x, weight, bias = parts(4, 30)
    clean = layer_norm(x, weight, bias, 1e-5, level=level)
    x[2, 29] = poison
    found = layer_norm(x, weight, bias, 1e-5, level=level)
    assert not torch.isfinite(found[2]).any()
    assert torch.equal(found[[0, 1, 3]], clean[[0, 1, 3]])
