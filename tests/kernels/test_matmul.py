import re
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import int8_model
from listing import inner_loops, listed
from tercet.errors import InputError, PrecisionError, TercetError
from tercet.kernels import matmul, native, packed_weight

SCHEMES = ("int8", "int8-fast")
KERNELS = [
    (scheme, level)
    for scheme in SCHEMES
    for level in (native.library().levels if native.library() else ())
    if level in matmul._LEVELS[scheme]
]
pytestmark = pytest.mark.skipif(not KERNELS, reason="built without native kernels")
every_kernel = pytest.mark.parametrize(("scheme", "level"), KERNELS)
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)
SHAPES = [
    (1, 1, 1), (1, 64, 32), (2, 63, 31), (13, 65, 33), (14, 128, 64), (15, 127, 97), (29, 384, 100),
    (300, 100, 7), (3, 1024, 64), (1, 4096, 33), (57, 193, 211),
]  # fmt: skip


def random(*shape, seed=0, spread=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread


def modelled(x, weight, bias=None, gelu=False, residual=None):
    """What the scheme says, in NumPy, and the size of the terms that float32 rounds."""
    group = 64 if weight.scheme == "int8" else -(-weight.in_features // 64) * 64
    values, scales = int8_model.unpacked(weight)
    y = int8_model.product(x.numpy(), values, scales, group)
    # Groups may cancel each other: their sums are what is rounded, not the result alone.
    size = int8_model.group_sums(x.numpy(), values, scales, group).max(initial=0)
    if bias is not None:
        y, size = y + bias.double().numpy(), size + bias.abs().max().item()
    if gelu:
        y = int8_model.gelu(y) if weight.scheme == "int8" else int8_model.quick_gelu(y)
    if residual is not None:
        y, size = y + residual.double().numpy(), size + residual.abs().max().item()
    return y, max(size, 1e-30)


@every_kernel
@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_is_what_its_scheme_says(scheme, level, shape):
    rows, inputs, outputs = shape
    x, bias, residual = random(rows, inputs), random(outputs, seed=1), random(rows, outputs, seed=2)
    weight = matmul.pack(random(outputs, inputs, seed=3), scheme, level=level)
    for options in ({}, {"gelu": True}, {"residual": residual}, {"gelu": True, "residual": residual}):
        found = matmul.linear(x, weight, bias, **options).numpy()
        expected, size = modelled(x, weight, bias, **options)
        assert np.abs(found - expected).max() < 1e-6 * size


@every_kernel
@given(
    rows=st.integers(0, 40),
    inputs=st.integers(1, 200),
    outputs=st.integers(1, 100),
    spread=st.sampled_from([1e-30, 1e-3, 1.0, 1e5]),
    shift=st.sampled_from([0.0, 1.0, -3.0, 1000.0]),
    outlier=st.sampled_from([1.0, 300.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_a_product_of_any_shape_is_what_its_scheme_says(
    scheme, level, rows, inputs, outputs, spread, shift, outlier, seed
):
    x = (random(rows, inputs, seed=seed) + shift) * spread
    x[:, seed % inputs] *= outlier
    weight = matmul.pack(random(outputs, inputs, seed=seed + 1), scheme, level=level)
    found = matmul.linear(x, weight, None).numpy()
    expected, size = modelled(x, weight)
    assert found.shape == (rows, outputs)
    assert (np.abs(found - expected) <= 1e-6 * size).all()


@every_kernel
def test_the_float_part_agrees_with_the_scalar_level(scheme, level):
    x, bias, residual = random(40, 500), random(90, seed=1), random(40, 90, seed=2)
    weight = random(90, 500, seed=3)
    found, expected = (
        matmul.linear(x, matmul.pack(weight, scheme, level=name), bias, gelu=True, residual=residual)
        for name in (level, "scalar")
    )
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()


@every_scheme
def test_the_bytes_are_the_same_for_every_level(scheme):
    weight = random(70, 200)
    packed = [matmul.pack(weight, scheme, level=level).data for name, level in KERNELS if name == scheme]
    assert all(torch.equal(data, packed[0]) for data in packed)


@every_kernel
def test_a_row_gets_the_same_bits_in_any_company(scheme, level):
    x, residual = random(1500, 130), random(1500, 77, seed=1)
    weight, bias = matmul.pack(random(77, 130, seed=2), scheme, level=level), random(77, seed=3)
    together = matmul.linear(x, weight, bias, gelu=True, residual=residual)
    for rows in (slice(0, 1), slice(13, 14), slice(5, 33), slice(700, 1300)):
        alone = matmul.linear(x[rows], weight, bias, gelu=True, residual=residual[rows])
        assert torch.equal(alone, together[rows])


@every_kernel
def test_threads_change_no_bit(scheme, level):
    weights = [matmul.pack(random(*shape, seed=1), scheme, level=level) for shape in ((200, 100), (100, 200))]
    before = torch.get_num_threads()
    try:
        for rows in (1, 5, 60, 4000):
            x = random(rows, 100, seed=rows)
            found = []
            for threads in (1, 2, 3, 5):
                torch.set_num_threads(threads)
                up = matmul.linear(x, weights[0], None, gelu=True)
                found.append((up, matmul.feed_forward(x, weights[0], None, weights[1], None, residual=x)))
            assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
    finally:
        torch.set_num_threads(before)


@every_kernel
@pytest.mark.parametrize("rows", [0, 1, 14, 40, 700])
def test_a_feed_forward_has_the_bits_of_two_products(scheme, level, rows):
    x, residual = random(rows, 96), random(rows, 90, seed=1)
    up, down = (matmul.pack(random(*shape, seed=2), scheme, level=level) for shape in ((330, 96), (90, 330)))
    up_bias, down_bias = random(330, seed=3), random(90, seed=4)
    found = matmul.feed_forward(x, up, up_bias, down, down_bias, residual=residual)
    between = matmul.linear(x, up, up_bias, gelu=True)
    assert torch.equal(found, matmul.linear(between, down, down_bias, residual=residual))


@every_kernel
def test_rows_may_lie_apart_and_be_their_own_residual(scheme, level):
    wide = random(50, 300)
    x = wide[:, 100:200]
    weight = matmul.pack(random(100, 100, seed=1), scheme, level=level)
    found = matmul.linear(x, weight, None, residual=x)
    assert torch.equal(found, matmul.linear(x.contiguous(), weight, None, residual=x.clone()))
    assert torch.equal(wide, random(50, 300))


@every_kernel
def test_a_result_can_go_where_the_residual_was(scheme, level):
    x, memory = random(60, 100), random(60, 250, seed=1)
    up, down = (matmul.pack(random(*shape, seed=2), scheme, level=level) for shape in ((90, 100), (90, 90)))
    place = memory[:, 64:154]
    residual, around = place.clone(), memory.clone()
    expected = matmul.linear(x, up, None, residual=residual)
    assert matmul.linear(x, up, None, residual=place, out=place) is place
    assert torch.equal(place, expected)
    place.copy_(residual)
    assert torch.equal(memory, around)
    expected = matmul.feed_forward(x, up, None, down, None, residual=residual)
    matmul.feed_forward(x, up, None, down, None, residual=place, out=place)
    assert torch.equal(place, expected)


@every_kernel
@pytest.mark.parametrize("rows", [3, 1500])
def test_a_result_can_go_where_x_was(scheme, level, rows):
    x = random(rows, 100)
    up, down = (matmul.pack(random(*shape, seed=2), scheme, level=level) for shape in ((90, 100), (100, 90)))
    expected = matmul.feed_forward(x, up, None, down, None, residual=x)
    matmul.feed_forward(x, up, None, down, None, residual=x, out=x)
    assert torch.equal(x, expected)


@every_kernel
def test_a_large_result_has_the_bits_of_its_parts(scheme, level):
    x, weight = random(2100, 8), matmul.pack(random(2016, 8, seed=1), scheme, level=level)
    found = matmul.linear(x, weight, None)
    assert found.nbytes > 16 << 20
    assert torch.equal(found[1400:1500], matmul.linear(x[1400:1500], weight, None))


@every_kernel
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("column", [0, 63, 64, 99])
@pytest.mark.parametrize("gelu", [False, True])
def test_a_row_that_is_not_finite_becomes_nan_and_no_other(scheme, level, poison, column, gelu):
    x = random(31, 100)
    weight = matmul.pack(random(40, 100, seed=1), scheme, level=level)
    clean = matmul.linear(x, weight, None, gelu=gelu)
    x[17, column] = poison
    found = matmul.linear(x, weight, None, gelu=gelu)
    assert found[17].isnan().all()
    others = torch.arange(31) != 17
    assert torch.equal(found[others], clean[others])


@every_kernel
def test_what_overflows_is_not_finite(scheme, level):
    weight = matmul.pack(torch.full((32, 64), 3e30), scheme, level=level)
    for value in (3e38, -3e38):
        found = matmul.linear(torch.full((1, 64), value), weight, None, gelu=True)
        assert not found.isfinite().any()


@every_kernel
def test_a_bias_that_is_not_finite_stays_so_through_gelu(scheme, level):
    weight = matmul.pack(random(3, 8), scheme, level=level)
    bias = torch.tensor([float("nan"), float("inf"), -float("inf")])
    assert not matmul.linear(random(2, 8, seed=1), weight, bias, gelu=True).isfinite().any()


@every_kernel
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.0, 0.3, -1e-20, 1e-40, 1e20, 1e36])
def test_rows_of_one_value_are_exact(scheme, level, value):
    weights = torch.randint(-127, 128, (40, 128), generator=torch.Generator().manual_seed(0)).float()
    weights[:, ::64] = 127.0  # so that every scale is 1 and the packed weights are exact
    weights = weights * 1e-3
    weight = matmul.pack(weights, scheme, level=level)
    values, scales = int8_model.unpacked(weight)
    held = (values * scales[:, :, None].astype(np.float64)).reshape(40, 128).sum(1)
    found = matmul.linear(torch.full((3, 128), value), weight, None).numpy()
    bound = 4e-7 * abs(value) * np.abs(values * scales[:, :, None]).sum((1, 2)) + 1e-35
    assert (np.abs(found - np.float32(value).astype(np.float64) * held) <= bound).all()
    if value == 0:
        assert not found.any()


@every_scheme
def test_a_product_is_near_that_of_float32(scheme):
    x, weights = random(200, 1024), random(500, 1024, seed=1) * 0.03
    found = matmul.linear(x, matmul.pack(weights, scheme), None)
    exact = x @ weights.T
    error = ((found - exact).square().mean() / exact.square().mean()).sqrt()
    assert error < {"int8": 0.010, "int8-fast": 0.016}[scheme]


@every_scheme
def test_outliers_cost_their_group_alone_where_there_are_groups(scheme):
    x, weights = random(100, 1024), random(64, 1024, seed=1)
    x[:, 5] = 200.0
    found = matmul.linear(x, matmul.pack(weights, scheme), None)
    error = (found - x @ weights.T).std().item()
    assert (error < 4) is (scheme == "int8")


def test_cut_ranges_lower_the_squared_error_of_a_weight():
    weights = random(64, 4096)
    packed = matmul.pack(weights, "int8-fast")
    values, scales = int8_model.unpacked(packed)
    held = torch.from_numpy((values * scales[:, :, None]).reshape(64, 4096))
    scale = weights.abs().amax(1, keepdim=True) / 127
    uncut = (weights / scale).round() * scale
    errors = [(one - weights).square().sum(1) for one in (held, uncut)]
    assert (errors[0] <= errors[1] * 1.0001).all()
    assert errors[0].sum() < 0.98 * errors[1].sum()


@every_kernel
def test_gelu_is_that_of_the_error_function(scheme, level):
    # One input of 1 and a bias that goes over all values: the product is 0.
    weight = matmul.pack(torch.zeros(20001, 1), scheme, level=level)
    for least, most in ((-12.0, 12.0), (-1e-3, 1e-3), (-1e30, 1e30)):
        values = torch.linspace(least, most, 20001)
        found = matmul.linear(torch.ones(1, 1), weight, values, gelu=True)[0].double()
        exact = torch.from_numpy(int8_model.gelu(values.double().numpy()))
        bound = 2e-7 if scheme == "int8" else 2e-4
        assert ((found - exact).abs() <= bound + 1.2e-7 * exact.abs()).all()


@pytest.mark.parametrize("level", [level for scheme, level in KERNELS if scheme == "int8-fast"])
def test_the_quick_gelu_is_exact_beyond_four(level):
    values = torch.cat([torch.linspace(4.0, 1e30, 999), torch.linspace(4.0, 300.0, 999)])
    weight = matmul.pack(torch.zeros(len(values), 1), "int8-fast", level=level)
    one = torch.ones(1, 1)
    assert torch.equal(matmul.linear(one, weight, values, gelu=True)[0], values)
    assert not matmul.linear(one, weight, -values, gelu=True).any()


@every_scheme
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_weight_in_half_precision_is_packed_as_its_values(scheme, dtype):
    weight = random(40, 70).to(dtype)
    assert torch.equal(matmul.pack(weight, scheme).data, matmul.pack(weight.float(), scheme).data)


@every_scheme
def test_a_weight_is_rebuilt_from_its_bytes(scheme, tmp_path):
    packed = matmul.pack(random(70, 100), scheme)
    (tmp_path / "weight").write_bytes(packed.data.numpy().tobytes())
    mapped = torch.from_numpy(np.memmap(tmp_path / "weight", np.uint8, "c"))
    again = packed_weight.PackedWeight(70, 100, scheme, packed.level, mapped)
    x = random(9, 100)
    assert torch.equal(matmul.linear(x, packed, None), matmul.linear(x, again, None))


@every_scheme
def test_bytes_that_do_not_fit_are_refused(scheme):
    packed = matmul.pack(random(70, 100), scheme)
    with pytest.raises(InputError, match=r"Pack the weight anew"):
        replace(packed, data=packed.data[:-1])
    with pytest.raises(InputError, match=r"out_features=97"):
        replace(packed, out_features=97)
    with pytest.raises(InputError, match="aligned"):
        replace(packed, data=torch.cat([packed.data.new_zeros(1), packed.data])[1:])


@every_scheme
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_callers_default_dtype_changes_no_bit(scheme, dtype):
    before, x, numbers = torch.get_default_dtype(), random(3, 70), random(40, 70)
    packed = matmul.pack(numbers, scheme)
    expected = matmul.linear(x, packed, None)
    torch.set_default_dtype(dtype)
    try:
        assert torch.equal(matmul.pack(numbers, scheme).data, packed.data)
        found = matmul.linear(x, packed, None)
    finally:
        torch.set_default_dtype(before)
    assert found.dtype is torch.float32
    assert torch.equal(found, expected)


def test_shapes_that_do_not_fit_are_named():
    weight = matmul.pack(random(8, 16), "int8")
    x = random(3, 16)
    with pytest.raises(InputError, match=re.escape("x is (3, 15) torch.float32 on cpu, not (rows, 16)")):
        matmul.linear(x[:, :15], weight, None)
    with pytest.raises(InputError, match=re.escape("x is (3, 16) torch.float64")):
        matmul.linear(x.double(), weight, None)
    with pytest.raises(InputError, match=re.escape("x.contiguous()")):
        matmul.linear(random(16, 3).T, weight, None)
    with pytest.raises(InputError, match=r"x asks for gradients.*torch\.no_grad"):
        matmul.linear(random(3, 16).requires_grad_(), weight, None)
    with pytest.raises(InputError, match=re.escape("bias is (7,) torch.float32 on cpu, not (8,)")):
        matmul.linear(x, weight, random(7))
    with pytest.raises(InputError, match=re.escape("residual is (2, 8) torch.float32 on cpu, not (3, 8)")):
        matmul.linear(x, weight, None, residual=random(2, 8))
    with pytest.raises(InputError, match=re.escape("out is (3, 9) torch.float32 on cpu, not (3, 8)")):
        matmul.linear(x, weight, None, out=random(3, 9))
    with pytest.raises(InputError, match=r"do not fit together"):
        matmul.feed_forward(x, weight, None, weight, None, residual=None)
    down = matmul.pack(random(4, 8), "int8")
    with pytest.raises(InputError, match=re.escape("up_bias is (4,)")):
        matmul.feed_forward(x, weight, random(4), down, None, residual=None)


@every_scheme
def test_weights_that_cannot_be_packed_are_refused(scheme):
    with pytest.raises(InputError, match="not finite"):
        matmul.pack(torch.tensor([[1.0, float("inf")]]), scheme)
    for weight in (random(4), random(0, 4), torch.ones(2, 2, dtype=torch.int8)):
        with pytest.raises(InputError, match=re.escape(str(tuple(weight.shape)))):
            matmul.pack(weight, scheme)
    with pytest.raises(InputError, match="65536 inputs"):
        matmul.pack(torch.zeros(1, 65537), scheme)


def test_an_unknown_scheme_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="int8-fast"):
        matmul.pack(random(4, 4), "int8_fast")


def test_a_level_that_does_not_run_here_is_refused():
    missing = "neon" if "avx2" in native.library().levels else "avx2"
    with pytest.raises(PrecisionError, match=missing):
        matmul.pack(random(4, 4), "int8", level=missing)
    packed = matmul.pack(random(4, 4), "int8")
    with pytest.raises(PrecisionError, match="Pack the weight for"):
        matmul.linear(random(1, 4), replace(packed, level=missing), None)


def test_a_level_that_nobody_tried_is_used_only_where_it_proves_itself(monkeypatch, caplog):
    best = matmul.available("int8")
    monkeypatch.setattr(matmul, "_UNTRIED", {best})
    monkeypatch.setattr(matmul, "_proven", matmul._proven.__wrapped__)
    assert matmul.available("int8") == best
    right = matmul.linear
    monkeypatch.setattr(
        matmul, "linear", lambda x, weight, bias: right(x, weight, bias) + (weight.level == best)
    )
    below = [level for scheme, level in KERNELS if scheme == "int8" and level != best]
    assert matmul.available("int8") == (below[-1] if below else None)
    assert best in caplog.text


def test_without_the_library_nothing_is_available(monkeypatch):
    packed = matmul.pack(random(4, 4), "int8")
    monkeypatch.setenv("TERCET_KERNELS", "none")
    assert matmul.available("int8") is None
    with pytest.raises(PrecisionError, match="TERCET_KERNELS=none"):
        matmul.pack(random(4, 4), "int8")
    with pytest.raises(TercetError, match="TERCET_KERNELS=none"):
        matmul.linear(random(1, 4), packed, None)


def test_the_largest_sums_do_not_overflow():
    x = torch.full((1, 65536), 255.0)
    x[0, 0] = 0.0
    for sign in (1.0, -1.0):
        for scheme, level in KERNELS:
            weight = matmul.pack(torch.full((1, 65536), sign * 127.0), scheme, level=level)
            # int8 adds 1,024 equal groups in float32.
            near = pytest.approx(sign * 65535 * 255 * 127, rel={"int8": 6e-5, "int8-fast": 1e-7}[scheme])
            assert matmul.linear(x, weight, None).item() == near


@pytest.mark.skipif(
    "avx512_vnni" not in (native.library().levels if native.library() else ()), reason="no AVX512-VNNI"
)
@pytest.mark.skipif(shutil.which("objdump") is None or sys.platform != "linux", reason="no objdump")
def test_the_inner_loops_keep_their_sums_in_registers():
    loops = inner_loops(listed(native._FILE))
    whole = [loop for loop in loops if sum("vpdpbusd" in line for line in loop) == 28 * 16]
    assert len(whole) == 2, "one for each scheme"
    for loop in whole:
        assert not [line for line in loop if "rsp" in line or "rbp" in line]
        products = [number for number, line in enumerate(loop) if "vpdpbusd" in line]
        between = loop[products[0] : products[-1]]
        assert not [line for line in between if re.search(r"\bv?mov\S+\s+%[xyz]mm\d+,\S*\(", line)], "a store"
        assert len({re.search(r"%zmm(\d+)$", line)[1] for line in between if "vpdpbusd" in line}) == 28
