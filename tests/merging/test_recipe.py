"""Recipes: mergekit's YAML read strictly, its gradients and filters, several documents in order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tercet.errors import InputError
from tercet.merging.method import Parameter
from tercet.merging.recipe import ModelName, parse_recipes, read_recipes
from tercet.merging.settings import evaluate, resolve
from tercet.precision.dtype import DType

GOLDEN = json.loads((Path(__file__).parent.parent / "recorded" / "mergekit_golden.json").read_text())
NUMBER = Parameter("t", float)

LINEAR = """
models:
  - model: a
    parameters:
      weight: 1.0
  - model: b@v2
    parameters:
      weight: [0.1, 1e-3]
merge_method: linear
dtype: float16
"""


@pytest.mark.parametrize("case", GOLDEN["evaluate_setting"])
def test_gradients_and_filters_are_mergekits(case):
    found = evaluate(case["setting"], case["tensor"], case["t"], NUMBER, "recipe")
    assert found is None if case["value"] is None else found == pytest.approx(case["value"], rel=1e-12)


def test_a_recipe_of_models_is_read():
    [recipe] = parse_recipes(LINEAR)
    assert recipe.method == "linear"
    [part] = recipe.slices
    assert [source.model for source in part.sources] == [ModelName("a"), ModelName("b", "v2")]
    assert part.sources[0].layers is None
    assert recipe.dtype is DType.FLOAT16
    assert recipe.out_dtype is None
    assert evaluate(part.sources[1].parameters["weight"], "x", 1, NUMBER, "recipe") == 0.001


def test_the_slice_outranks_the_recipe_and_the_default_comes_last():
    levels = [{"t": [{"filter": "mlp", "value": 0.1}]}, {"t": 0.7}]
    assert resolve(NUMBER, levels, "layer.mlp.up", 0, "recipe") == 0.1
    assert resolve(NUMBER, levels, "layer.attn", 0, "recipe") == 0.7
    assert resolve(Parameter("t", float, 0.3), [{}], "x", 0, "recipe") == 0.3
    with pytest.raises(InputError, match=r"there is no t for layer.attn of model a\. Set it"):
        resolve(NUMBER, levels[:1], "layer.attn", 0, "recipe", "model a")


def test_slices_have_ranges_and_their_own_base():
    text = """
merge_method: slerp
base_model: a
slices:
  - sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: [2, 6]}]
    parameters: {t: 0.2}
  - sources: [{model: a, layer_range: [4, 6]}, {model: b, layer_range: [4, 6]}]
    base_model: b
    residual_weight: 0.5
parameters: {t: 0.5, embed_slerp: true}
"""
    [recipe] = parse_recipes(text)
    assert [source.layers for source in recipe.slices[0].sources] == [(0, 4), (2, 6)]
    assert recipe.slices[1].base == ModelName("b")
    assert recipe.models() == (ModelName("a"), ModelName("b"))
    assert len(recipe.notes) == 2
    assert "embed_slerp" not in recipe.parameters


def test_documents_come_after_those_that_they_name():
    text = """
name: second
merge_method: linear
models: [{model: first, parameters: {weight: 1}}, {model: c, parameters: {weight: 1}}]
---
merge_method: passthrough
models: [{model: second}]
---
name: first
merge_method: linear
models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]
"""
    assert [recipe.name for recipe in parse_recipes(text)] == ["first", "second", None]
    with pytest.raises(InputError, match="goes in a circle"):
        parse_recipes(text.replace("model: a", "model: second"))
    with pytest.raises(InputError, match="'first' is used by no other"):
        parse_recipes(text.replace("model: first", "model: a"))


def test_a_module_of_one_tower_is_its_models():
    text = "merge_method: linear\nmodules: {default: {models: [{model: a}], parameters: {weight: 2}}}"
    [recipe] = parse_recipes(text)
    assert recipe.module_parameters == {"weight": 2}
    assert recipe.models() == (ModelName("a"),)


def test_a_model_may_be_written_out():
    text = "merge_method: passthrough\nmodels: [{model: {model: {path: a, revision: r}, lora: {path: l}}}]"
    [recipe] = parse_recipes(text)
    assert recipe.models() == (ModelName("a", "r", "l"),)
    assert str(recipe.models()[0]) == "a@r+l"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("dtype:", "dtpye:"), "no key 'dtpye'. Did you mean 'dtype'"),
        (("weight: 1.0", "wieght: 1.0"), "no parameter 'wieght'. Did you mean 'weight'"),
        (("parameters:", "parameterz:"), "no key 'parameterz'. Did you mean 'parameters'"),
        (("merge_method: linear", "merge_method: lineal"), "Did you mean 'linear'"),
        (("dtype: float16", "dtype: int8"), "merges are written in"),
        (("dtype: float16", "missing: bse"), "Did you mean 'base'"),
        (("dtype: float16", "seed: x"), "expected a whole number"),
        (("dtype: float16", "chat_template: chatml"), "set it in tokenizer_config.json"),
        (("dtype: float16", "tokenizer: {source: base, pad_to_multiple_of: -8}"), "expected a whole number"),
        (("dtype: float16", "slices: [{sources: []}]"), "found models and slices"),
        (("model: a", "modl: a"), "Did you mean 'model'"),
        (("merge_method: linear", ""), "merge_method is None"),
        (("weight: 1.0", "- 1"), r"expected names and values"),
        (("models:", "models: ["), "not valid YAML"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(change, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_recipes(LINEAR.replace(*change), where="merge.yml")
    assert "merge.yml" in str(caught.value) or "merge method" in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "parameter", "message"),
    [
        ("much", NUMBER, "expected a number"),
        (float("nan"), NUMBER, "expected a number"),
        (1.5, Parameter("max_iter", int), "expected a whole number"),
        ("yes", Parameter("normalize", bool), "expected true or false"),
        (-0.5, Parameter("density", float, least=0), "density is -0.5, expected a number from 0"),
        ([{"filter": "a", "valeu": 1}], NUMBER, "in a list with filters"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(setting, parameter, message):
    with pytest.raises(InputError, match=message):
        evaluate(setting, "a", 0, parameter, "merge.yml")


FILTERED = "[{filter: mlp, value: [0.1, much]}, {value: 1}]"


@pytest.mark.parametrize(
    ("form", "value", "place"),
    [
        (
            "models: [{model: a}, {model: b, parameters: {weight: VALUE}}]",
            "much",
            "models[1]: weight is 'much'",
        ),
        ("models: [{model: a, parameters: {weight: VALUE}}]", FILTERED, "models[0]: weight is 'much'"),
        ("models: [{model: a, parameters: {weight: VALUE}}]", "[{vale: 1}]", "models[0]: weight has"),
        (
            "slices: [{sources: [{model: a, layer_range: [0, 2], parameters: {weight: VALUE}}]}]",
            "[1, x]",
            "slices[0].sources[0]: weight is 'x', expected a number",
        ),
        (
            "slices: [{sources: [{model: a, layer_range: [0, 2]}], parameters: {normalize: VALUE}}]",
            "2",
            "slices[0]: normalize is 2, expected true or false",
        ),
        (
            "modules: {x: {models: [{model: a, parameters: {weight: VALUE}}]}}",
            ".nan",
            "modules.x, models[0]: w",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_named_by_the_place_where_it_stands(form, value, place):
    with pytest.raises(InputError) as caught:
        parse_recipes(f"merge_method: linear\n{form.replace('VALUE', value)}", where="merge.yml")
    assert str(caught.value).startswith(f"merge.yml, {place}")


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        ("ties", "density", "50"),
        ("dare_linear", "density", "[0.5, 50]"),
        ("della", "density", "[{filter: mlp, value: 50}, {value: 0.5}]"),
        ("sce", "select_topk", "50"),
    ],
)
def test_a_share_above_one_keeps_everything_and_is_noted_with_its_place(method, name, value):
    text = f"merge_method: {method}\nbase_model: a\nmodels: [{{model: b, parameters: {{{name}: {value}}}}}]"
    [note] = parse_recipes(text, where="merge.yml")[0].notes
    assert note == (
        f"merge.yml, models[0]: {name} is 50. It is a share: from 1 on, as in mergekit, everything is kept. "
        f"Write {name}: 0.5 for half."
    )
    assert not parse_recipes(text.replace("50", "1.0"))[0].notes


def test_a_parameter_of_another_method_is_noted():
    [recipe] = parse_recipes(LINEAR + "parameters: {int8_mask: true}")
    assert recipe.notes == ("int8_mask is no parameter of linear and has no effect.",)


@pytest.mark.parametrize(
    "text",
    [
        "models: []\nmerge_method: linear\nmerge_method: slerp",
        "models:\n- model: a\n  parameters: {weight: 1}\n  parameters: {density: 1}\nmerge_method: ties",
        "name: x\n---\nmodels: [{model: a, parameters: {weight: 1, \nweight: 2}}]",
    ],
)
def test_a_key_that_is_there_twice_is_refused_with_its_line(text):
    with pytest.raises(InputError, match=r"merge.yml, line [34]: the key '.*' stands twice. Keep one"):
        parse_recipes(text, where="merge.yml")


def test_aliases_and_merged_mappings_are_no_repeated_keys():
    text = (
        "merge_method: linear\nmodels: [{model: a, parameters: &p {weight: 1}}, {model: b, parameters: *p}]"
    )
    assert [dict(s.parameters) for s in parse_recipes(text)[0].slices[0].sources] == [{"weight": 1}] * 2
    text = "merge_method: linear\nmodels: [&m {model: a, parameters: {weight: 1}}, {<<: *m, model: b}]"
    assert len(parse_recipes(text)[0].models()) == 2
    with pytest.raises(InputError, match="merge_method is None"):
        parse_recipes("&a {models: *a}")


def test_lm_cocktail_needs_examples_or_weights():
    with pytest.raises(InputError, match=r"merge\.yml: .*neither examples nor weights. Give examples: FILE"):
        parse_recipes("merge_method: lm_cocktail\nmodels: [{model: a}, {model: b}]", where="merge.yml")
    for given in (
        "models: [{model: a, parameters: {weight: 1}}]",
        "models: [{model: a}]\nparameters: {weight: 1}",
        "slices: [{sources: [{model: a, layer_range: [0, 1]}], parameters: {weight: 1}}]",
    ):
        assert parse_recipes(f"merge_method: lm_cocktail\n{given}")[0].examples is None


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_recipes(tmp_path / "merge.yml")
    (tmp_path / "empty.yml").write_text("# nothing\n")
    with pytest.raises(InputError, match="is empty"):
        read_recipes(tmp_path / "empty.yml")
