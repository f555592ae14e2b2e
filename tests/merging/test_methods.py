"""Merge methods: exact arithmetic, rounding, chunks, random choices, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder import merging
from tercet.errors import InputError, UnknownNameError
from tercet.merging.methods import METHODS
from tercet.merging.streaming import merge_tensors

DETERMINISTIC = [case for case in merging.CASES if "all" not in case.name]


def task_vectors(shape=(40, 50), models=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator, dtype=torch.float64)
    others = [
        base + 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(models)
    ]
    return [one.to(dtype) for one in (base, *others)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", DETERMINISTIC, ids=lambda case: case.name)
def test_the_error_is_that_of_exact_arithmetic_rounded_once(case, dtype):
    for shape in case.shapes:
        given = [torch.from_numpy(one).to(dtype) for one in merging.tensors(case, shape, 5)]
        exact = merge_tensors([one.double() for one in given], case.method, case.parameters, base=case.base)
        found = merge_tensors(given, case.method, case.parameters, base=case.base).to(dtype)
        best = (exact.to(dtype).double() - exact).norm()
        step = torch.finfo(dtype).eps * exact.norm() / exact.numel() ** 0.5
        assert (found.double() - exact).norm() <= 1.01 * best + step


@settings(max_examples=60)
@given(st.integers(1, 5), st.integers(1, 12), st.integers(1, 40), st.integers(0, 2**31), st.data())
def test_chunks_change_nothing(rows, columns, chunk_numbers, seed, data):
    case = data.draw(st.sampled_from(merging.CASES))
    generator = np.random.default_rng(seed)
    given = [torch.from_numpy(generator.integers(1, 9, (rows, columns)) + 0.25) for _ in range(case.inputs)]
    options = {"base": case.base, "name": "a"}
    whole = merge_tensors(given, case.method, case.parameters, **options)
    parts = merge_tensors(given, case.method, case.parameters, chunk_numbers=chunk_numbers, **options)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)


def test_ties_keeps_exactly_its_density_of_equal_entries():
    base = torch.zeros(10)
    model = torch.full((10,), 2.0)
    found = merge_tensors([base, model], "ties", {"weight": [1.0], "density": [0.3]}, base=0, chunk_numbers=4)
    assert found.tolist() == [2.0] * 3 + [0.0] * 7


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_random_methods_keep_their_density_and_the_sum_of_magnitudes(method):
    base, model = task_vectors((300, 200), 1)
    options = {"weight": 1.0, "density": 0.4}
    found = merge_tensors([base, model], method, options, base=0) - base
    kept = found != 0
    assert abs(float(kept.double().mean()) - 0.4) < 5 * (0.4 * 0.6 / kept.numel()) ** 0.5
    torch.testing.assert_close(found.abs().sum(), (model - base).abs().sum())
    unscaled = merge_tensors([base, model], method, {**options, "rescale": False}, base=0) - base
    torch.testing.assert_close(unscaled[kept], (model - base)[kept])


def test_della_keeps_large_entries_more_often():
    base, model = task_vectors((400, 100), 1)
    options = {"weight": 1.0, "density": 0.5, "epsilon": 0.3}
    kept = merge_tensors([base, model], "della", options, base=0) != base
    order = (model - base).abs().argsort(dim=-1)
    small, large = order[:, :20], order[:, -20:]
    assert abs(float(kept.gather(1, small).double().mean()) - 0.26) < 0.03
    assert abs(float(kept.gather(1, large).double().mean()) - 0.74) < 0.03


def test_a_row_of_one_entry_is_no_trouble_for_della():
    found = merge_tensors(
        [torch.zeros(1), torch.ones(1)], "della", {"weight": 1.0, "density": 0.5}, base=0, seed=3
    )
    assert found.item() in (0.0, 1.0)


def test_random_choices_come_from_the_seed_the_name_and_the_input():
    base, model = task_vectors((20, 30), 1)

    def merged(**options):
        return merge_tensors([base, model], "dare_linear", {"weight": 1, "density": 0.5}, base=0, **options)

    torch.testing.assert_close(merged(), merged(chunk_numbers=37))
    assert not torch.equal(merged(), merged(seed=1))
    assert not torch.equal(merged(), merged(name="another"))
    twice = merge_tensors([base, model, model], "dare_linear", {"weight": 1, "density": 0.5}, base=0)
    assert not torch.equal((twice - base) / 2, merged() - base)


def test_equal_models_come_back_whatever_the_method():
    one = torch.randn(6, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for case in merging.CASES:
        if case.name in ("linear, sum", "multislerp, sum", "passthrough"):
            continue
        found = merge_tensors([one] * case.inputs, case.method, case.parameters, base=case.base)
        torch.testing.assert_close(found, one, rtol=1e-9, atol=1e-9, msg=case.name)


def test_tensors_without_numbers_stay_without():
    found = merge_tensors([torch.empty(0, 4)] * 2, "linear", {"weight": [1, 1]})
    assert found.shape == (0, 4)


@pytest.mark.parametrize(
    ("method", "inputs", "base", "parameters", "message"),
    [
        ("linear", 2, None, {"weight": [1, -1]}, "add up to zero"),
        ("linear", 2, None, {"wieght": [1, 1]}, "Did you mean 'weight'"),
        ("linear", 2, None, {}, "needs the parameter 'weight'"),
        ("linear", 2, None, {"weight": [1, 2, 3]}, "3 values for 2 inputs"),
        ("ties", 2, None, {"weight": 1}, "needs a base model"),
        ("slerp", 3, 0, {"t": 0.5}, "takes 1 model\\(s\\) beside the base"),
        ("model_stock", 2, 0, {}, "takes at least 2"),
        ("nuslerp", 3, None, {"weight": 1}, "takes 2 model"),
        ("passthrough", 2, None, {}, "takes 1 model"),
        ("della", 2, 0, {"weight": 1, "density": 0.1}, "Choose a smaller epsilon"),
        ("multislerp", 3, None, {"weight": [1, -2, 1]}, "set normalize_weights: false"),
    ],
)
def test_what_cannot_be_merged_is_said(method, inputs, base, parameters, message):
    with pytest.raises(InputError, match=message):
        merge_tensors([torch.ones(3)] * inputs, method, parameters, base=base)


def test_opposite_models_have_no_mean_on_a_sphere():
    with pytest.raises(InputError, match="opposite"):
        merge_tensors([torch.ones(4), -torch.ones(4)], "karcher", {})


def test_an_unknown_method_is_named_with_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'slerp'"):
        merge_tensors([torch.ones(3)] * 2, "slepr", {})


def test_every_method_says_what_it_does():
    assert len(METHODS.names()) == 20
    for name in METHODS.names():
        assert METHODS[name].summary.endswith((".", ")."))
