"""What follows attention in an encoder's layer, natively in one: the same bits as by its parts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.errors import InputError, PrecisionError
from tercet.kernels import matmul, native
from tercet.kernels.layer_end import Norm, layer_end
from tercet.kernels.norm import layer_norm

KERNELS = [
    (scheme, level)
    for scheme, levels in matmul._LEVELS.items()
    for level in (native.library().levels if native.library() else ())
    if level in levels
]
pytestmark = pytest.mark.skipif(not KERNELS, reason="built without native kernels")
every_kernel = pytest.mark.parametrize(("scheme", "level"), KERNELS)


def random(*shape, seed=0, spread=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread


def a_layer(width, between, scheme, level=None, biased=True):
    """Weights, biases and norms."""
    shapes = ((width, width), (between, width), (width, between))
    weights = tuple(
        matmul.pack(random(*shape, seed=i, spread=0.3), scheme, level=level) for i, shape in enumerate(shapes)
    )
    biases = tuple(random(shape[0], seed=9 + i) if biased else None for i, shape in enumerate(shapes))
    norms = tuple(
        Norm(1 + random(width, seed=20 + i, spread=0.2), random(width, seed=30 + i), 1e-12 * (1 + i))
        for i in range(2)
    )
    return weights, biases, norms


def by_parts(x, weights, biases, norms, residual):
    hidden = layer_norm(matmul.linear(x, weights[0], biases[0], residual=residual), *norms[0])
    found = matmul.feed_forward(hidden, weights[1], biases[1], weights[2], biases[2], residual=hidden)
    return layer_norm(found, *norms[1])


@every_kernel
@pytest.mark.parametrize("rows", [0, 1, 13, 14, 15, 57, 130, 700])
def test_it_has_the_bits_of_its_parts(scheme, level, rows):
    layer = a_layer(97, 211, scheme, level)
    x, residual = random(rows, 97, seed=50), random(rows, 97, seed=51)
    assert torch.equal(layer_end(x, *layer, residual=residual), by_parts(x, *layer, residual))


@every_kernel
@given(
    rows=st.integers(0, 40),
    width=st.integers(3, 140),
    between=st.integers(1, 200),
    biased=st.booleans(),
    spread=st.sampled_from([1e-3, 1.0, 1e3]),
    apart=st.integers(0, 5),
    seed=st.integers(0, 999),
)
@settings(max_examples=25, deadline=None)
def test_it_has_the_bits_of_its_parts_at_any_shape(
    scheme, level, rows, width, between, biased, spread, apart, seed
):
    layer = a_layer(width, between, scheme, level, biased)
    x, residual = (random(rows, width + apart, seed=seed + i, spread=spread)[:, :width] for i in range(2))
    assert torch.equal(layer_end(x, *layer, residual=residual), by_parts(x, *layer, residual))


@every_kernel
def test_threads_and_company_change_no_bit(scheme, level):
    layer = a_layer(64, 160, scheme, level)
    x, residual = random(1500, 64, seed=1), random(1500, 64, seed=2)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = layer_end(x, *layer, residual=residual)
        for threads in (2, 3, 5):
            torch.set_num_threads(threads)
            assert torch.equal(layer_end(x, *layer, residual=residual), expected)
            for rows in (slice(0, 1), slice(5, 60), slice(100, 1400)):
                assert torch.equal(layer_end(x[rows], *layer, residual=residual[rows]), expected[rows])
    finally:
        torch.set_num_threads(before)


@every_kernel
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_finite_becomes_nan_and_no_other(scheme, level, poison):
    layer = a_layer(33, 70, scheme, level)
    x, residual = random(30, 33, seed=1), random(30, 33, seed=2)
    clean = layer_end(x, *layer, residual=residual)
    x[7, 5], residual[20, 3] = poison, poison
    found = layer_end(x, *layer, residual=residual)
    assert found[[7, 20]].isnan().all()
    others = [row for row in range(30) if row not in (7, 20)]
    assert torch.equal(found[others], clean[others])


def test_what_is_given_is_not_changed():
    layer = a_layer(40, 90, "int8-fast")
    x, residual = random(600, 40, seed=1), random(600, 40, seed=2)
    kept = x.clone(), residual.clone()
    layer_end(x, *layer, residual=residual)
    assert torch.equal(x, kept[0])
    assert torch.equal(residual, kept[1])


def test_what_does_not_fit_is_an_error_that_says_where():
    weights, biases, norms = a_layer(8, 20, "int8")
    x = random(3, 8)
    other = matmul.pack(random(8, 20), "int8-fast")
    with pytest.raises(InputError, match="The weights of a layer do not fit together"):
        layer_end(x, (weights[0], weights[1], other), biases, norms, residual=x)
    with pytest.raises(InputError, match="The weights of a layer do not fit together"):
        layer_end(x, (weights[0], weights[2], weights[1]), biases, norms, residual=x)
    with pytest.raises(InputError, match=r"x is \(3, 9\).* not \(rows, 8\)"):
        layer_end(random(3, 9), weights, biases, norms, residual=x)
    with pytest.raises(InputError, match=r"residual is \(2, 8\)"):
        layer_end(x, weights, biases, norms, residual=x[:2])
    with pytest.raises(InputError, match=r"the bias of up is \(8,\)"):
        layer_end(x, weights, (biases[0], biases[0], biases[2]), norms, residual=x)
    with pytest.raises(InputError, match=r"the weight of a norm is \(9,\)"):
        layer_end(x, weights, biases, (norms[0], Norm(random(9), random(8), 1e-5)), residual=x)


def test_a_weight_for_a_level_that_is_not_here_is_an_error():
    (out, up, down), biases, norms = a_layer(8, 20, "int8")
    elsewhere = tuple(
        matmul.PackedWeight(
            w.out_features, w.in_features, w.scheme, "neon_dot" if "neon" not in w.level else "avx2", w.data
        )
        for w in (out, up, down)
    )
    with pytest.raises(PrecisionError, match="does not run at the instruction level"):
        layer_end(random(2, 8), elsewhere, biases, norms, residual=random(2, 8))
