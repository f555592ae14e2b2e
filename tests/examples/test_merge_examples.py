"""The recipes of examples/merge_examples.py: each does what it says to every layer."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

_PATH = Path(__file__).parents[2] / "examples" / "merge_examples.py"
_UP = "model.layers.{}.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("merge_examples", _PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = tmp_path_factory.mktemp("examples")
    merged = module.run(root)
    assert set(merged) == set(module.RECIPES)
    # run by transformers where that is installed, else said
    assert all("ten sequences" in one.tried or "not installed" in one.tried for one in merged.values())
    return root


def weights(folders, name):
    return load_file(folders / name / "model.safetensors")


@pytest.mark.parametrize("name", ["linear", "gradient-slerp", "ties", "bio-merge", "arcee_fusion"])
def test_each_has_the_layers_of_its_models_in_the_format_that_was_asked_for(name, folders):
    found, base = weights(folders, f"{name}-merged"), weights(folders, "base")
    dtype = "bfloat16" if name in ("bio-merge", "arcee_fusion") else "float16"
    assert found.keys() == base.keys()
    assert {str(one.dtype) for one in found.values()} == {f"torch.{dtype}"}
    assert all(one.isfinite().all() for one in found.values())
    config = json.loads((folders / f"{name}-merged" / "config.json").read_text())
    assert (config["torch_dtype"], config["num_hidden_layers"]) == (dtype, 5)


def test_gradients_go_from_one_model_to_the_other_by_layers_and_names(folders):
    found, one, two = (weights(folders, name) for name in ("gradient-slerp-merged", "one", "two"))
    query = "model.layers.{}.self_attn.q_proj.weight"
    # t is 0 in the first layer's attention, 1 in the last one's, and the reverse in the feed-forward
    for name, first, last in ((query, one, two), (_UP, two, one)):
        assert torch.equal(found[name.format(0)], first[name.format(0)].half())
        assert torch.equal(found[name.format(4)], last[name.format(4)].half())


def test_the_mean_has_the_weights_of_the_recipe(folders):
    found, *models = (weights(folders, name) for name in ("linear-merged", "one", "two", "three"))
    for name, tensor in found.items():
        exact = sum(w * m[name].double() for w, m in zip((1.0, 0.3, 0.5), models, strict=True)) / 1.8
        torch.testing.assert_close(tensor.double(), exact, rtol=2**-10, atol=1e-7)


def test_layers_in_a_row_are_those_of_both_models(folders):
    found, one, two = (weights(folders, n) for n in ("orcamini-platy-44layer-merged", "one", "two"))
    for layer, (model, source) in enumerate(
        [*((one, n) for n in range(3)), *((two, n) for n in range(2, 5))]
    ):
        assert torch.equal(found[_UP.format(layer)], model[_UP.format(source)].half())
    config = json.loads((folders / "orcamini-platy-44layer-merged" / "config.json").read_text())
    assert config["num_hidden_layers"] == 6
    assert torch.equal(found["model.embed_tokens.weight"], one["model.embed_tokens.weight"].half())
    assert torch.equal(found["lm_head.weight"], two["lm_head.weight"].half())


def test_arcee_fusion_takes_a_number_of_one_model_or_the_other(folders):
    found, base, one = (weights(folders, name) for name in ("arcee_fusion-merged", "base", "one"))
    for name, tensor in found.items():
        assert ((tensor == base[name]) | (tensor == one[name])).all()
    assert any(not torch.equal(tensor, base[name]) for name, tensor in found.items())
