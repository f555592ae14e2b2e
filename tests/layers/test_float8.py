import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tercet.layers.float8 import FORMAT, multiply, multiply_by_hand, quantised, use_float8
from tercet.layers.linear import Linear


def normal(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


@given(seed=st.integers(0, 999), scale=st.sampled_from([1e-30, 1e-6, 1.0, 300.0, 1e30]))
def test_codes_lie_within_their_stated_distance(seed, scale):
    rows = normal(5, 64, seed=seed, scale=scale)
    codes, scales = quantised(rows)
    assert (codes.dtype, scales.dtype, scales.shape) == (FORMAT, torch.float32, (5, 1))
    error = (codes.double() * scales.double() - rows.double()).abs()
    assert (error <= torch.maximum(rows.double().abs() / 16, scales.double() / 1024) * (1 + 1e-6)).all()


def test_the_largest_number_of_a_row_has_the_largest_code():
    codes, _ = quantised(normal(40, 32, scale=7.0))
    assert (codes.float().abs().amax(dim=1) == 448).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_of_zeros_and_of_next_to_nothing_have_codes_without_harm(dtype):
    rows = torch.tensor([[0.0, 0.0], [1e-45, 0.0], [6e-8, -6e-8]], dtype=dtype)
    codes, scales = quantised(rows)
    assert (scales > 0).all()
    assert (codes.float() * scales).isfinite().all()
    assert not codes[0].float().any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_comes_out_as_one_and_stays_in_its_row(bad):
    x, weight = normal(3, 32), normal(16, 32, seed=1)
    wanted = multiply_by_hand(*quantised(x), *(part for part in transposed(quantised(weight))))
    x[1, 5] = bad
    for by in (multiply, multiply_by_hand):
        found = by(*quantised(x), *transposed(quantised(weight)))
        assert not found[1].isfinite().any()
        assert torch.equal(found[[0, 2]], wanted[[0, 2]])


def test_many_rows_are_quantised_in_blocks_as_few_are(monkeypatch):
    rows = normal(23, 16)
    wanted = quantised(rows)
    monkeypatch.setattr("tercet.layers.float8._BLOCK", 5)
    for ours, theirs in zip(quantised(rows), wanted, strict=True):
        assert torch.equal(ours.float(), theirs.float())


def transposed(weight):
    codes, scales = weight
    return codes, scales.t().contiguous()


@pytest.mark.parametrize("shape", [(1, 32, 16), (7, 64, 48), (130, 384, 1536), (64, 1536, 384)])
def test_torchs_product_is_the_one_by_hand_to_one_rounding(shape):
    tokens, inner, outer = shape
    x, weight = normal(tokens, inner), normal(outer, inner, seed=1, scale=0.05)
    operands = (*quantised(x), *transposed(quantised(weight)))
    found, wanted = multiply(*operands), multiply_by_hand(*operands)
    assert found.dtype == wanted.dtype == torch.bfloat16
    # Sums in another order, then a rounding to bfloat16.
    torch.testing.assert_close(found.float(), wanted.float(), rtol=2**-7, atol=1e-5 * inner**0.5)


@pytest.mark.parametrize("shape", [(64, 384, 1536), (64, 1536, 384)])
def test_a_product_lies_within_its_stated_error_of_the_exact_one(shape):
    """Two operands, each off by up to 1/16 of each number: about 4 % of a random product's length."""
    tokens, inner, outer = shape
    x, weight = normal(tokens, inner).double(), normal(outer, inner, seed=1, scale=0.05).double()
    found = multiply_by_hand(*quantised(x.float()), *transposed(quantised(weight.float()))).double()
    exact = x @ weight.t()
    error = float((found - exact).norm() / exact.norm())
    assert 0.02 < error < 0.05


def layer(inner, outer, seed=0):
    made = Linear(inner, outer)
    with torch.no_grad():
        made.weight.copy_(normal(outer, inner, seed=seed, scale=0.1))
        made.bias.copy_(normal(outer, seed=seed + 1))
    return made.to(torch.bfloat16).requires_grad_(False)


def test_bias_activation_and_residual_follow_in_bfloat16():
    plain, x, residual = layer(32, 48), normal(6, 32).bfloat16(), normal(6, 48, seed=5).bfloat16()
    product = multiply_by_hand(*quantised(x), *transposed(quantised(plain.weight)))
    bias = plain.bias
    assert use_float8(plain, multiply_by_hand) == (1, ())
    assert torch.equal(plain(x), product + bias)
    assert torch.equal(plain(x, residual=residual), product + bias + residual)
    assert torch.equal(plain(x, activation=functional.gelu), functional.gelu(product + bias))
    assert plain(x).dtype == torch.bfloat16


def test_weights_take_one_byte_and_layers_of_odd_sizes_stay_as_they_are():
    module = torch.nn.ModuleDict({"even": layer(32, 48), "odd": layer(24, 48), "uneven": layer(48, 40)})
    x = normal(5, 24).bfloat16()
    wanted = module["odd"](x)
    assert use_float8(module) == (1, ("odd", "uneven"))
    assert module["even"].product.codes.dtype == FORMAT
    assert module["even"].weight.numel() == 0
    assert module["odd"].weight.dtype == torch.bfloat16
    assert torch.equal(module["odd"](x), wanted)


def test_a_token_gives_the_same_alone_and_among_others():
    made, x = layer(64, 32), normal(9, 64).bfloat16()
    use_float8(made, multiply_by_hand)
    torch.testing.assert_close(made(x)[4:5], made(x[4:5]), rtol=2**-7, atol=0)
