import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tercet.kernels import matmul
from tercet.kernels.native import library

OWN = {"scalar", "avx2", "avx512", "neon"}
LEVELS = [level for level in (library().levels if library() else ()) if level in OWN]
pytestmark = pytest.mark.skipif(not LEVELS, reason="built without native kernels")


def layer(rows, inputs, outputs, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inputs, generator=draw)
    weight = torch.randn(outputs, inputs, generator=draw) / inputs**0.5
    return x, weight, torch.randn(outputs, generator=draw), torch.randn(rows, outputs, generator=draw)


@pytest.mark.parametrize("level", LEVELS)
@given(
    rows=st.integers(0, 50),
    inputs=st.integers(1, 900),
    outputs=st.integers(1, 100),
    what=st.sampled_from(["plain", "gelu", "residual", "both"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_a_product_equals_float64_at_any_shape(level, rows, inputs, outputs, what, seed):
    x, weight, bias, residual = layer(rows, inputs, outputs, seed)
    packed = matmul.pack(weight, "float32", level=level)
    expected = functional.linear(x.double(), weight.double(), bias.double())
    found = matmul.linear(
        x,
        packed,
        bias,
        gelu=what in ("gelu", "both"),
        residual=residual if what in ("residual", "both") else None,
    )
    expected = functional.gelu(expected) if what in ("gelu", "both") else expected
    expected = expected + residual if what in ("residual", "both") else expected
    assert found.shape == expected.shape
    # Sums of about 1 over n products, one after another, err by 2**-24 * sqrt(n / 6) as a standard deviation;
    # eight of them, and as much again as GELU, the bias and the residual round.
    assert ((found - expected).abs() <= 1e-6 + 8 * 2**-24 * (inputs / 6) ** 0.5).all()


@pytest.mark.parametrize("level", LEVELS)
def test_a_row_gets_the_same_bits_in_any_company(level):
    x, weight, bias, residual = layer(700, 500, 90)
    packed = matmul.pack(weight, "float32", level=level)
    together = matmul.linear(x, packed, bias, gelu=True, residual=residual)
    for first, last in ((0, 1), (13, 14), (250, 293), (699, 700)):
        part = matmul.linear(
            x[first:last], packed, bias, gelu=True, residual=residual[first:last].contiguous()
        )
        assert torch.equal(part, together[first:last])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rows", [1, 15, 100, 1300])
def test_threads_change_no_bit(level, rows):
    x, weight, bias, _ = layer(rows, 400, 300)
    packed = matmul.pack(weight, "float32", level=level)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(matmul.linear(x, packed, bias))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rows", [0, 3, 2500])
def test_a_feed_forward_is_its_two_layers_bit_for_bit(level, rows):
    x, up, up_bias, _ = layer(rows, 70, 130)
    _, down, down_bias, residual = layer(rows, 130, 70, seed=1)
    packed = [matmul.pack(weight, "float32", level=level) for weight in (up, down)]
    between = matmul.linear(x, packed[0], up_bias, gelu=True)
    expected = matmul.linear(between, packed[1], down_bias, residual=residual)
    found = matmul.feed_forward(x, packed[0], up_bias, packed[1], down_bias, residual=residual)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_row(level, poison):
    x, weight, bias, _ = layer(40, 800, 33)
    packed = matmul.pack(weight, "float32", level=level)
    clean = matmul.linear(x, packed, bias)
    x[17, 790] = poison
    found = matmul.linear(x, packed, bias)
    assert not torch.isfinite(found[17]).any()
    assert torch.equal(torch.cat([found[:17], found[18:]]), torch.cat([clean[:17], clean[18:]]))


def test_the_result_may_go_where_the_residual_or_the_rows_are():
    x, weight, bias, residual = layer(300, 800, 800)
    packed = matmul.pack(weight, "float32")
    expected = matmul.linear(x, packed, bias, residual=residual)
    over = residual.clone()
    assert matmul.linear(x, packed, bias, residual=over, out=over) is over
    assert torch.equal(over, expected)
    rows = x.clone()
    assert matmul.linear(rows, packed, bias, residual=residual, out=rows) is rows
    assert torch.equal(rows, expected)


def test_rows_may_lie_apart():
    x, weight, bias, _ = layer(20, 60, 40)
    wide = torch.zeros(20, 100)
    wide[:, 30:90] = x
    packed = matmul.pack(weight, "float32")
    assert torch.equal(matmul.linear(wide[:, 30:90], packed, bias), matmul.linear(x, packed, bias))
