"""Merge methods on random tensors, and on the golden numbers, against mergekit's."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recorder import merging
from tercet.merging.methods import METHODS
from tercet.merging.streaming import merge_tensors

GOLDEN = json.loads((Path(__file__).parent.parent / "recorded" / "mergekit_golden.json").read_text())


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("merging")


def relative_error(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("chunk_numbers", [1 << 20, 64])
@pytest.mark.parametrize("case", merging.CASES, ids=lambda case: case.name)
def test_random_tensors_merge_as_in_mergekit(case, chunk_numbers, peer):
    for shape in case.shapes:
        inputs = [torch.from_numpy(one) for one in merging.tensors(case, shape, int(peer["seed"]))]
        options = {"base": case.base, "chunk_numbers": chunk_numbers}
        found = merge_tensors(inputs, case.method, case.parameters, **options)
        assert relative_error(found.numpy(), peer[f"{case.name}/{shape}/float64"]) < 1e-6
        if shape != "matrix":
            continue
        found = merge_tensors([one.float() for one in inputs], case.method, case.parameters, **options)
        assert found.dtype == torch.float32
        assert relative_error(found.numpy(), peer[f"{case.name}/{shape}/float32"]) < 1e-6


def test_every_method_is_compared():
    ours = {"lm_cocktail", "regmean", "fisher"}  # which mergekit has not
    assert {case.method for case in merging.CASES} == set(METHODS.names()) - ours


@pytest.mark.parametrize(
    "case", GOLDEN["cases"], ids=[f"{number}-{case['method']}" for number, case in enumerate(GOLDEN["cases"])]
)
def test_the_golden_numbers_come_out(case):
    inputs = [torch.tensor(GOLDEN["tensors"][name], dtype=torch.float64) for name in case["inputs"]]
    found = merge_tensors(inputs, case["method"], case["parameters"], base=case["base"])
    np.testing.assert_allclose(found.numpy(), case["expected"], rtol=1e-6, atol=1e-9)


def test_bfloat16_is_added_up_in_float32_and_rounded_once():
    golden = GOLDEN["bf16_linear"]
    inputs = [torch.tensor(one, dtype=torch.bfloat16) for one in golden["inputs"]]
    found = merge_tensors(inputs, "linear", {"weight": golden["weight"]})
    assert found.dtype == torch.float32
    assert found.bfloat16().tolist() == golden["expected"]
