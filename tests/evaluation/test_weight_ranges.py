import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import tiny
from tercet.checkpoint.layout import open_checkpoint
from tercet.errors import InputError, PrecisionError
from tercet.evaluation import weight_ranges as module
from tercet.evaluation.weight_ranges import weight_ranges
from tercet.precision.dtype import DType

QUERY = "encoder.layer.1.attention.self.query.weight"


def changed(folder, **settings):
    """A tiny BERT whose tensors can be replaced; gives the function that does so and opens the checkpoint."""
    tiny.write_checkpoint(folder, "bert", **settings)
    path = folder / "model.safetensors"

    def change(**tensors):
        save_file({**load_file(path), **tensors}, path, metadata={"format": "pt"})
        return open_checkpoint(folder)

    return change


def of(checkpoint, name, **options):
    return {tensor.name: tensor for tensor in weight_ranges(checkpoint, **options)}[name]


def test_every_floating_point_tensor_is_looked_at_the_modules_too(tiny_stack):
    checkpoint = open_checkpoint(tiny_stack)
    found = {tensor.name: tensor for tensor in weight_ranges(checkpoint)}
    assert set(found) == {*checkpoint.tensors, "2_Dense/linear.weight", "2_Dense/linear.bias"}
    for name, info in checkpoint.tensors.items():
        weights = checkpoint.stored(info).double().abs()
        assert found[name].largest == float(weights.max())
        assert found[name].smallest == float(weights[weights > 0].min())
        assert found[name].numbers == weights.numel()
        assert (found[name].int8 is None) == (weights.ndim < 2)
        assert found[name].not_finite == found[name].in_format(DType.FLOAT16).overflow == 0


# In float16: kept, kept, rounded within 2^-11, rounded to the largest, over it, twice subnormal, twice 0.
VALUES = [0.0, 1.0, 1.0003, 65_519.0, 65_520.0, 3e-5, 8e-8, 2e-8, -1e-30]


def test_losses_in_float16_are_counted_as_they_are(tmp_path):
    weights = torch.full((32, 32), 0.5)
    weights[0, : len(VALUES)] = torch.tensor(VALUES)
    weights[1, 0], weights[1, 1] = torch.inf, torch.nan
    checkpoint = changed(tmp_path)(**{QUERY: weights})
    found = of(checkpoint, QUERY)
    half = found.in_format(DType.FLOAT16)
    assert found.not_finite == 2
    assert half.overflow == 1
    assert half.zeroed == 2
    assert half.subnormal == 2
    assert half.imprecise == 3
    assert half.worst_error == 1.0
    assert found.largest == 65_520.0
    assert found.smallest == pytest.approx(1e-30)
    brain = found.in_format(DType.BFLOAT16)
    assert (brain.overflow, brain.zeroed, brain.subnormal, brain.imprecise) == (0, 0, 0, 0)
    assert 2**-10 < brain.worst_error <= 2**-8
    assert of(checkpoint, QUERY, imprecise_above=1e-4).in_format(DType.BFLOAT16).imprecise > 0


@given(st.integers(-140, 120), st.integers(0, 2**32 - 1))
def test_losses_are_numpys_at_every_magnitude(exponent, seed):
    values = (np.random.default_rng(seed).standard_normal(200) * 2.0**exponent).astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        half = values.astype(np.float16)
    loss = module._Format(DType.FLOAT16, 0.01)
    exact = torch.from_numpy(values).double()
    loss.add(exact, torch.from_numpy(values).half().double(), torch.ones(200, dtype=torch.bool))
    found = loss.result()
    assert found.overflow == np.isinf(half).sum()
    assert found.zeroed == ((half == 0) & (values != 0)).sum()
    assert found.subnormal == ((half != 0) & (np.abs(half) < np.finfo(np.float16).tiny)).sum()
    kept = ~np.isinf(half) & (values != 0)
    errors = np.abs(half[kept].astype(float) / values[kept].astype(float) - 1)
    assert found.imprecise == (errors > 0.01).sum()
    assert found.worst_error == pytest.approx(errors.max(initial=0.0), rel=1e-6, abs=1e-12)


def int8_errors(rows):
    """By hand, row by row; NaN of zeros."""
    errors = []
    for row in np.asarray(rows, dtype=np.float64):
        scale = np.abs(row).max() / 127
        length = np.linalg.norm(row)
        errors.append(np.linalg.norm(np.round(row / scale) * scale - row) / length if scale else np.nan)
    return np.array(errors)


@pytest.mark.parametrize("block", [1 << 20, 5 * 100])
def test_int8_is_measured_by_rows_and_by_groups_of_64(block, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    weights = torch.randn(32, 100, generator=torch.Generator().manual_seed(0))
    weights[3] = 0.0
    weights[7, 5] = 300.0
    found = of(changed(tmp_path, hidden=100)(**{QUERY: _square(weights)}), QUERY).int8
    rows = _square(weights).numpy()
    by_row = int8_errors(rows)
    assert found.channel_mean == pytest.approx(np.nanmean(by_row), rel=1e-9)
    assert found.channel_worst == pytest.approx(np.nanmax(by_row), rel=1e-9)
    assert found.worst_channel == 7
    groups = [int8_errors(rows[:, :64]), int8_errors(rows[:, 64:])]
    assert found.group_mean == pytest.approx(np.nanmean(groups), rel=1e-9)
    assert found.group_worst == pytest.approx(np.nanmax(groups), rel=1e-9)
    scales = np.abs(rows).max(axis=1, keepdims=True) / 127
    flushed = (np.abs(rows) <= scales / 2) & (rows != 0)
    assert found.flushed == flushed.sum()
    assert flushed[7].sum() > 50


def _square(weights):
    """(100, 100): these rows, and ones below them."""
    return torch.cat([weights, torch.ones(68, 100)])


def test_weights_too_small_to_square_still_have_an_error(tmp_path):
    small = 1e-30 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    found = of(changed(tmp_path)(**{QUERY: small}), QUERY).int8
    assert found.channel_worst == pytest.approx(np.nanmax(int8_errors(small)), rel=1e-6)


def test_a_checkpoint_in_float16_loses_nothing_in_float16_and_says_what_it_is_stored_in(tmp_path):
    checkpoint = open_checkpoint(tiny.write_checkpoint(tmp_path, "bert", dtype="float16"))
    for tensor in weight_ranges(checkpoint):
        half = tensor.in_format(DType.FLOAT16)
        assert tensor.stored == "float16"
        assert half.worst_error == half.overflow == half.zeroed == 0


def test_blocks_make_no_difference(tiny_m3, monkeypatch):
    checkpoint = open_checkpoint(tiny_m3)
    whole = list(weight_ranges(checkpoint))
    monkeypatch.setattr(module, "_BLOCK", 200)
    for one, other in zip(whole, weight_ranges(checkpoint), strict=True):
        assert (one.name, one.formats, one.largest, one.smallest) == (
            other.name,
            other.formats,
            other.largest,
            other.smallest,
        )
        assert (one.int8 is None) == (other.int8 is None)
        assert one.int8 is None or one.int8.channel_mean == pytest.approx(other.int8.channel_mean, rel=1e-12)
    assert any(tensor.name == "colbert_linear.pt/weight" for tensor in whole)
    assert (
        json.loads(json.dumps([tensor.to_json() for tensor in whole]))[0]["formats"][0]["dtype"] == "float16"
    )


def test_options_that_cannot_be_are_refused_at_once(tiny_bert):
    checkpoint = open_checkpoint(tiny_bert)
    with pytest.raises(PrecisionError, match="int8 has scales"):
        weight_ranges(checkpoint, dtypes=[DType.INT8])
    for options in ({"imprecise_above": -1.0}, {"imprecise_above": float("nan")}, {"group": 0}):
        with pytest.raises(InputError, match="give a bound of at least 0"):
            weight_ranges(checkpoint, **options)
    tensor = next(weight_ranges(checkpoint, dtypes=[DType.FLOAT16]))
    with pytest.raises(InputError, match="was looked at in float16, not in bfloat16"):
        tensor.in_format(DType.BFLOAT16)
