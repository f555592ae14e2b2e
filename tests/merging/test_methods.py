"""Merge methods: exact arithmetic, rounding, chunks, random choices, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder import merging
from tercet.errors import InputError, UnknownNameError
from tercet.merging import streaming
from tercet.merging.method import Chunk
from tercet.merging.methods import METHODS
from tercet.merging.rounding import rounded
from tercet.merging.streaming import merge_tensors

DETERMINISTIC = [case for case in merging.CASES if "all" not in case.name]


def task_vectors(shape=(40, 50), models=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator, dtype=torch.float64)
    others = [
        base + 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(models)
    ]
    return [one.to(dtype) for one in (base, *others)]


NARROW = (torch.float16, torch.bfloat16)


@settings(max_examples=150)
@given(
    st.sampled_from(DETERMINISTIC),
    st.sampled_from(NARROW),
    st.sampled_from(NARROW),
    st.integers(2, 9),
    st.integers(2, 40),
    st.integers(0, 2**31),
)
def test_the_error_is_that_of_exact_arithmetic_rounded_once(case, stored, written, rows, columns, seed):
    generator = np.random.default_rng(seed)
    common = 0.04 * generator.standard_normal((rows, columns))
    inputs = [
        torch.from_numpy(common + 0.01 * generator.standard_normal((rows, columns))).to(stored)
        for _ in range(case.inputs)
    ]
    exact = merge_tensors([one.double() for one in inputs], case.method, case.parameters, base=case.base)
    # as the executor does it, and as one who merges tensors in memory
    streamed = rounded(exact, written)
    found = merge_tensors(inputs, case.method, case.parameters, base=case.base).to(written)
    best = (streamed.double() - exact).norm()
    exponents = exact.abs().clamp(min=1e-300).log2().floor()
    steps = torch.finfo(written).eps * exponents.exp2() + smallest(written)
    assert bool(((streamed.double() - exact).abs() <= steps / 2).all())
    assert (found.double() - exact).norm() <= 1.01 * best + steps.max()


def smallest(dtype):
    """The distance of numbers next to zero."""
    return torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps


def on_threshold(inputs, method, parameters, chunk_numbers):
    """How many entries a method counts, and its result."""
    counts = []
    task = streaming._task(METHODS[method], parameters, len(inputs) - 1, tuple(inputs[0].shape), "a", 0)
    flat = [one.double().reshape(-1) for one in inputs]
    width = METHODS[method].width(task)

    def chunks():
        for part in streaming.chunk_bounds(METHODS[method], task, len(inputs), chunk_numbers):
            pieces = [one[part].reshape((-1, width) if width else (1, -1)) for one in flat]
            yield Chunk(tuple(pieces[1:]), pieces[0], part.start)

    list(streaming.merge_chunks(METHODS[method], task, chunks, counts.append))
    return sum(counts)


@pytest.mark.parametrize("chunk_numbers", [1 << 20, 6])
def test_entries_exactly_on_a_threshold_are_counted(chunk_numbers):
    base = torch.zeros(2, 6)
    model = torch.tensor([[4.0, 2, 2, 2, 1, 0], [3, -2, 0, 0, 0, 0]])
    half = {"weight": 1.0, "density": 0.25}
    # of 12 entries 3 are kept: 4, 3 and one of the four of magnitude 2
    assert on_threshold([base, model], "ties", half, chunk_numbers) == 4
    # as many as there are: none is left to chance
    assert on_threshold([base, model], "ties", {"weight": 1.0, "density": 0.5}, chunk_numbers) == 0
    # zeros change nothing, whichever are kept
    assert on_threshold([base, model], "ties", {"weight": 1.0, "density": 0.75}, chunk_numbers) == 0
    # the largest goes (gamma), then of 3 and the twos three are kept
    crumbs = {**half, "gamma": 0.09}
    assert on_threshold([base, model], "breadcrumbs", crumbs, chunk_numbers) == 4
    # of 7 positions that vary 3 are kept
    assert on_threshold([base, model, 0 * model], "sce", {"select_topk": 0.5}, chunk_numbers) == 4


def test_arcee_fusion_counts_what_lies_on_its_threshold():
    base = torch.zeros(1, 9)
    model = torch.tensor([[1.0, 1, 1, 1, 1, 1, 1, 1, 2]])
    # all quartiles are the importance of a change by one, and so is the threshold
    assert on_threshold([base, model], "arcee_fusion", {}, 1 << 20) == 8
    assert torch.equal(merge_tensors([base, model], "arcee_fusion", {}, base=0), model)
    assert on_threshold([base, base], "arcee_fusion", {}, 1 << 20) == 0


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
    assert len(METHODS.names()) == 23
    for name in METHODS.names():
        assert METHODS[name].summary.endswith((".", ")."))
