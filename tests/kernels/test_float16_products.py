"""Native float16: to the bit what the scheme says, at every level."""

import platform
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import float16_model
from listing import inner_loops, listed
from tercet.errors import InputError, PrecisionError
from tercet.kernels import matmul, native

LEVELS = [
    level
    for level in (native.library().levels if native.library() else ())
    if level in matmul._LEVELS["float16"]
]
pytestmark = pytest.mark.skipif(not LEVELS, reason="built without native kernels")
every_level = pytest.mark.parametrize("level", LEVELS)


def random(*shape, seed=0, spread=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread


def compiles(flag):
    command = ["g++", flag, "-E", "-x", "c++", "-"]
    known = shutil.which("g++") and subprocess.run(command, input=b"", capture_output=True)
    return bool(known) and known.returncode == 0


def packed(weight, level="scalar"):
    return matmul.pack(weight, "float16", level=level)


@every_level
@given(
    rows=st.integers(0, 16),
    inputs=st.integers(1, 300),
    outputs=st.integers(1, 40),
    spread=st.sampled_from([1e-9, 1e-5, 1e-3, 1.0, 100.0, 3e4]),
    weight_spread=st.sampled_from([1e-5, 0.03, 1.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_a_product_has_the_bits_of_the_scheme_in_whole_numbers(
    level, rows, inputs, outputs, spread, weight_spread, seed
):
    rows, outputs = min(rows, 1 + 4000 // inputs // 4), min(outputs, 1 + 4000 // inputs)
    x = random(rows, inputs, seed=seed, spread=spread).clamp(-65504, 65504)
    weight = random(outputs, inputs, seed=seed + 1, spread=weight_spread)
    found = matmul.linear(x, packed(weight, level), None).numpy()
    np.testing.assert_array_equal(found, float16_model.product(x.numpy(), weight.numpy()))


@every_level
def test_a_product_is_not_rounded_before_its_sum_and_a_sum_halfway_goes_to_the_even_number(level):
    above, below = 1 + 2.0**-10, 1 - 2.0**-10
    # 2048 + 1 and 2050 + 1 are halfway; the last product, rounded by itself, would be 1 as well.
    for base, left, right, wanted in (
        (2048, 1.0, 1.0, 2048),
        (2050, 1.0, 1.0, 2052),
        (2048, above, 1.0, 2050),
        (2050, 1.0, below, 2050),
        (2050, above, below, 2050),
    ):
        x, weight = torch.tensor([[float(base), 0.0, left]]), torch.tensor([[1.0, 0.0, right]])
        assert matmul.linear(x, packed(weight, level), None).item() == wanted
        assert float16_model.product(x.numpy(), weight.numpy()).item() == wanted


@every_level
def test_every_number_of_float16_passes_unchanged_and_every_one_between_is_rounded_once(level):
    bits = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    numbers = torch.from_numpy(bits[np.isfinite(bits)].astype(np.float32))
    one = packed(torch.ones(1, 1), level)
    assert torch.equal(matmul.linear(numbers[:, None], one, None)[:, 0], numbers)
    between = torch.cat([numbers * (1 + 2.0**-12), numbers * (1 + 2.0**-11), numbers * (1 - 3 * 2.0**-13)])
    found = matmul.linear(between[:, None], one, None)[:, 0]
    rounded = between.half().float()
    assert torch.equal(found[rounded.isfinite()], rounded[rounded.isfinite()])
    assert found[~rounded.isfinite()].isnan().all()
    # As weights too.
    assert torch.equal(matmul.linear(torch.ones(1, 1), packed(numbers[:, None], level), None)[0], numbers)


@every_level
def test_bias_gelu_and_residual_are_those_of_float32(level):
    x, weight, bias, residual = (
        random(31, 200),
        random(70, 200, seed=1),
        random(70, seed=2),
        random(31, 70, seed=3),
    )
    plain = matmul.linear(x, packed(weight, level), None).double()
    found = matmul.linear(x, packed(weight, level), bias, gelu=True, residual=residual)
    wanted = torch.nn.functional.gelu(plain + bias) + residual
    assert (found - wanted).abs().max() < 2e-6 * wanted.abs().max()


@every_level
def test_a_row_gets_the_same_bits_in_any_company_with_any_number_of_threads(level):
    x, residual = random(300, 130), random(300, 77, seed=1)
    up, down = packed(random(77, 130, seed=2), level), packed(random(77, 77, seed=3), level)
    together = matmul.linear(x, up, None, gelu=True, residual=residual)
    for rows in (slice(0, 1), slice(13, 14), slice(5, 33), slice(70, 290)):
        assert torch.equal(
            matmul.linear(x[rows], up, None, gelu=True, residual=residual[rows]), together[rows]
        )
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert torch.equal(matmul.linear(x, up, None, gelu=True, residual=residual), together)
            between = matmul.linear(x, up, None, gelu=True)
            both = matmul.feed_forward(x, up, None, down, None, residual=residual)
            assert torch.equal(both, matmul.linear(between, down, None, residual=residual))
    finally:
        torch.set_num_threads(before)


@every_level
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf"), 65520.0, -1e30])
@pytest.mark.parametrize("column", [0, 63, 99])
@pytest.mark.parametrize("gelu", [False, True])
def test_a_row_with_a_value_beyond_float16_becomes_nan_and_no_other(level, poison, column, gelu):
    x, weight = random(31, 100), random(40, 100, seed=1)
    weight[3] = 0  # an infinity times nothing, too
    clean = matmul.linear(x, packed(weight, level), None, gelu=gelu)
    x[17, column] = poison
    found = matmul.linear(x, packed(weight, level), None, gelu=gelu)
    assert found[17].isnan().all()
    others = torch.arange(31) != 17
    assert torch.equal(found[others], clean[others])


@every_level
def test_values_at_the_edge_of_float16_are_not_clipped(level):
    for value, wanted in ((65504.0, 65504.0), (65519.0, 65504.0), (-65519.0, -65504.0)):
        assert (
            matmul.linear(torch.full((1, 1), value), packed(torch.ones(1, 1), level), None).item() == wanted
        )
    assert (
        matmul.linear(torch.ones(1, 1), packed(torch.full((1, 1), -65504.0), level), None).item() == -65504.0
    )


@every_level
def test_a_sum_that_leaves_the_range_on_its_way_is_nan_though_its_end_is_small(level):
    x = torch.full((1, 8), 200.0)
    weight = torch.tensor([[200.0, 0, 200.0, 0, -200.0, 0, -200.0, 0], [1.0] * 8])
    found = matmul.linear(x, packed(weight, level), None)
    assert found[0, 0].isnan()
    assert found[0, 1] == 1600
    # What float32 adds, sums of blocks, may be larger than any number of float16.
    wide = matmul.linear(torch.full((1, 256), 16.0), packed(torch.full((1, 256), 32.0), level), None)
    assert wide.item() == 256 * 512


@every_level
@pytest.mark.parametrize("inputs", [1, 2, 31, 33, 64])
@pytest.mark.parametrize("outputs", [1, 31, 32, 65])
def test_a_weight_in_half_precision_is_packed_as_its_values(level, inputs, outputs):
    weight = random(outputs, inputs).half()
    found = packed(weight, level)
    assert torch.equal(found.data, packed(weight.float(), level).data)
    panels = found.data.view(torch.float16).view(-(-outputs // 32), -1, 32, 2).permute(0, 2, 1, 3)
    held = panels.reshape(-(-outputs // 32) * 32, -1)
    assert torch.equal(held[:outputs, :inputs], weight)
    assert not held[outputs:].any()
    assert not held[:, inputs:].any()


def test_weights_beyond_the_range_are_refused_by_their_value():
    with pytest.raises(
        InputError, match=re.escape("(1, 2) holds -70000, beyond the range of float16 (largest number 65504)")
    ):
        packed(torch.tensor([[1.0, -7e4]]))
    with pytest.raises(InputError, match="not finite; repair the checkpoint"):
        packed(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(InputError, match=re.escape("(0, 4)")):
        packed(torch.zeros(0, 4))


def test_its_imitation_is_never_offered(monkeypatch):
    natives = [level for level in LEVELS if level != "scalar"]
    monkeypatch.setattr(matmul, "_proven", lambda level: True)
    assert matmul.available("float16") == (natives[-1] if natives else None)
    monkeypatch.setenv("TERCET_KERNELS", "scalar")
    assert matmul.available("float16") is None
    with pytest.raises(
        PrecisionError, match=r"'float16' does not run here: .*AVX512-FP16, or the FP16 of Armv8\.2"
    ):
        matmul.pack(random(4, 4), "float16")
    assert packed(random(4, 4)).level == "scalar"


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="x86 on Linux")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump")
def test_the_inner_loops_keep_their_sums_in_registers():
    products = "vfmadd231ph"
    loops = [loop for loop in inner_loops(listed(native._FILE)) if any(products in line for line in loop)]
    if not loops and not compiles("-mavx512fp16"):
        pytest.skip("built by a compiler that does not know AVX512-FP16")
    assert sorted(sum(products in line for line in loop) for loop in loops) == [
        16 * 2 * rows for rows in range(1, 15)
    ]
    for loop in loops:
        assert not [line for line in loop if "rsp" in line or "rbp" in line]
        assert not [line for line in loop if re.search(r"%[xyz]mm\d+,\S*\(", line)], "a store"
        found = [line for line in loop if products in line]
        assert all(re.search(r"%zmm\d+,%zmm\d+,%zmm\d+$", line) for line in found)
        assert len({re.search(r"%zmm(\d+)$", line)[1] for line in found}) == len(found) // 16
        assert not [line for line in loop if "vpbroadcastw" in line]
