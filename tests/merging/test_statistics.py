"""regmean and fisher: against plain numpy, and merges of folders by files of statistics."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

import tiny
from tercet.checkpoint.hashing import hash_weights
from tercet.checkpoint.source import Source
from tercet.errors import CheckpointError, InputError, OutputError
from tercet.merging.executor import run_merge
from tercet.merging.folder import ENCODER, open_folder
from tercet.merging.planning import plan_merge
from tercet.merging.recipe import parse_recipes
from tercet.merging.statistics_file import read_statistics, write_statistics
from tercet.merging.streaming import merge_tensors

LAYERS = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")


def drawn(seed: int, models: int, rows: int, columns: int, tokens: int):
    """Weights of linear layers, and inputs of each."""
    generator = np.random.default_rng(seed)
    weights = [generator.standard_normal((rows, columns)) for _ in range(models)]
    mixed = [generator.standard_normal((columns, columns)) for _ in range(models)]
    inputs = [generator.standard_normal((tokens, columns)) @ one for one in mixed]
    return weights, inputs


def grams(inputs):
    return [one.T @ one / len(one) for one in inputs]


def torches(arrays):
    return [torch.from_numpy(one) for one in arrays]


def plain_regmean(weights, matrices, factors, alpha, ridge):
    """As the paper has it, with the ridge as documented."""
    scaled = [alpha * one + (1 - alpha) * np.diag(np.diag(one)) for one in matrices]
    added = ridge * np.mean([np.diag(one) for one in matrices]) * np.eye(len(matrices[0]))
    scaled = [factor * (one + added) for factor, one in zip(factors, scaled, strict=True)]
    numerator = sum(w @ one for w, one in zip(weights, scaled, strict=True))
    return numerator @ np.linalg.inv(sum(scaled))


@settings(max_examples=60)
@given(
    st.integers(0, 2**31),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 9),
    st.floats(0, 0.99),
    st.sampled_from([1e-6, 1e-3, 0.1]),
)
def test_regmean_is_what_numpy_makes_of_the_formula(seed, models, rows, columns, alpha, ridge):
    weights, inputs = drawn(seed, models, rows, columns, tokens=3)
    factors = [0.5 + number for number in range(models)]
    parameters = {"weight": factors, "alpha": alpha, "ridge": ridge}
    found = merge_tensors(torches(weights), "regmean", parameters, statistics=torches(grams(inputs)))
    expected = plain_regmean(weights, grams(inputs), factors, alpha, ridge)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-7, atol=1e-7 * np.abs(expected).max())


@settings(max_examples=60)
@given(
    st.integers(0, 2**31),
    st.integers(1, 4),
    st.integers(1, 30),
    st.integers(1, 40),
    st.sampled_from([0.0, 1e-6, 0.5]),
    st.booleans(),
)
def test_fisher_is_what_numpy_makes_of_the_formula(seed, models, numbers, chunk, floor, normalize):
    generator = np.random.default_rng(seed)
    weights = list(generator.standard_normal((models, numbers)))
    # half of the numbers matter to no text
    matter = list(generator.random((models, numbers)) * (generator.random((models, numbers)) < 0.5))
    factors = [0.5 + number for number in range(models)]
    parameters = {"weight": factors, "floor": floor, "normalize": normalize}
    found = merge_tensors(
        torches(weights), "fisher", parameters, statistics=torches(matter), chunk_numbers=chunk
    )
    scaled = [one / one.mean() if normalize and one.any() else one for one in matter]
    level = floor * np.mean([one.mean() for one in scaled])
    shares = [factor * np.maximum(one, level) for factor, one in zip(factors, scaled, strict=True)]
    total = sum(shares)
    mean = np.average(weights, axis=0, weights=factors)
    with np.errstate(invalid="ignore"):
        expected = sum(s * w for s, w in zip(shares, weights, strict=True)) / total
    np.testing.assert_allclose(found.numpy(), np.where(total == 0, mean, expected), rtol=1e-9, atol=1e-12)


def distance(merged, weights, inputs, alpha=1.0):
    """What regmean makes least: how far outputs are from those of each model on its own inputs."""
    total = 0.0
    for weight, matrix in zip(weights, grams(inputs), strict=True):
        scaled = alpha * matrix + (1 - alpha) * np.diag(np.diag(matrix))
        total += np.trace((merged - weight) @ scaled @ (merged - weight).T)
    return total


def test_regmean_is_nearer_to_what_the_models_give_than_their_mean():
    weights, inputs = drawn(seed=1, models=3, rows=12, columns=10, tokens=200)
    mean = sum(weights) / 3
    # alpha 1: exactly the least squares of outputs
    found = merge_tensors(
        torches(weights), "regmean", {"alpha": 1.0, "ridge": 0.0}, statistics=torches(grams(inputs))
    ).numpy()
    outputs = sum(((x @ found.T - x @ w.T) ** 2).sum() / len(x) for x, w in zip(inputs, weights, strict=True))
    np.testing.assert_allclose(distance(found, weights, inputs), outputs)
    assert distance(found, weights, inputs) < 0.7 * distance(mean, weights, inputs)
    # of the least no step in any direction is an improvement
    step = 1e-3 * np.random.default_rng(0).standard_normal(found.shape)
    for other in (found + step, found - step):
        assert distance(other, weights, inputs) > distance(found, weights, inputs)
    default = merge_tensors(torches(weights), "regmean", {}, statistics=torches(grams(inputs))).numpy()
    assert distance(default, weights, inputs, 0.9) < 0.8 * distance(mean, weights, inputs, 0.9)


def test_regmean_takes_large_layers_by_blocks():
    # rows and columns beyond one block of 2^19 numbers
    weights, inputs = drawn(seed=2, models=2, rows=37, columns=1100, tokens=40)
    found = merge_tensors(torches(weights), "regmean", {}, statistics=torches(grams(inputs)))
    expected = plain_regmean(weights, grams(inputs), [1, 1], 0.9, 1e-6)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_what_no_text_tells_comes_out_as_the_mean():
    weights = [torch.full((2, 3), 1.0), torch.full((2, 3), 3.0)]
    nothing = [torch.zeros(3, 3), torch.zeros(3, 3)]
    assert torch.equal(merge_tensors(weights, "regmean", {}, statistics=nothing), torch.full((2, 3), 2.0))
    # the third input is never anything but 0
    one = torch.diag(torch.tensor([1.0, 1, 0]))
    found = merge_tensors(weights, "regmean", {"weight": [3, 1]}, statistics=[one, 4 * one])
    torch.testing.assert_close(found[0], torch.tensor([15 / 7, 15 / 7, 1.5]), atol=1e-5, rtol=0)
    assert merge_tensors(weights, "fisher", {}, statistics=[torch.zeros(2, 3)] * 2)[0, 0] == 2
    # without statistics both are the mean
    for method in ("regmean", "fisher"):
        assert merge_tensors(weights, method, {"weight": [3, 1]})[0, 0] == 1.5


def test_singular_gram_matrices_are_said_with_the_mend():
    weights = [torch.ones(2, 3, dtype=torch.float64)] * 2
    one = torch.tensor([[1.0, 2, 3]], dtype=torch.float64)
    with pytest.raises(InputError, match=r"singular.*set alpha below 1 \(0.9\), or ridge above 0"):
        merge_tensors(weights, "regmean", {"alpha": 1.0, "ridge": 0.0}, statistics=[one.T @ one] * 2)
    found = merge_tensors(weights, "regmean", {"alpha": 1.0, "ridge": 1e-6}, statistics=[one.T @ one] * 2)
    torch.testing.assert_close(found, weights[0])


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        ("regmean", {"alpha": 1.5}, "alpha is 1.5 .* from 0 to 1"),
        ("regmean", {"ridge": -1.0}, "ridge -1; .*from 0 on"),
        ("fisher", {"floor": -1.0}, "floor is -1"),
        ("fisher", {"weight": [1, -2]}, "none below 0"),
        ("regmean", {"weight": 0}, "one above"),
        ("linear", {"weight": 1}, "linear takes no statistics"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(method, parameters, message):
    with pytest.raises(InputError, match=message):
        merge_tensors([torch.ones(3, 3)] * 2, method, parameters, statistics=[torch.ones(3, 3)] * 2)


def test_every_input_has_statistics_of_its_own():
    with pytest.raises(InputError, match="1 statistics were given for 2 inputs"):
        merge_tensors([torch.ones(3, 3)] * 2, "regmean", {}, statistics=[torch.ones(3, 3)])


# Files.


def statistics_of(folder: Path, path: Path, seed: int, **about) -> dict[str, torch.Tensor]:
    """A file with made-up statistics of a tiny BERT, query, key and value sharing theirs."""
    model = open_folder(Source(folder, str(folder), None))
    generator = torch.Generator().manual_seed(seed)
    tensors, shared = {}, {}
    for place, info in model.parts[ENCODER].tensors.items():
        key = f"{ENCODER}/{place}"
        tensors[f"fisher/{key}"] = torch.rand(info.shape, generator=generator)
        if key.endswith(("key.weight", "value.weight")):
            shared[key] = key.replace("key", "query").replace("value", "query")
        elif key.endswith(tuple(f"{name}.weight" for name in LAYERS)) and "pooler" not in key:
            inputs = torch.randn(50, info.shape[1], generator=generator)
            tensors[f"gram/{key}"] = inputs.T @ inputs / 50
    fisher = torch.cat([one.flatten() for name, one in tensors.items() if name.startswith("fisher")])
    known = {
        "weights_sha256": hash_weights(model.folder, model.files),
        "shared": shared,
        "fisher_mean": float(fisher.double().mean()),
    }
    shapes = {name: tuple(one.shape) for name, one in tensors.items()}
    write_statistics(path, tensors.items(), shapes, {**known, **about})
    return tensors


@pytest.fixture
def gathered(tmp_path):
    """Two models, and the statistics of each."""
    folders = [tiny.write_checkpoint(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    made = [
        statistics_of(one, tmp_path / f"{one.name}.safetensors", seed) for seed, one in enumerate(folders)
    ]
    return folders, made


def planned(tmp_path: Path, method: str, *, files=("a.safetensors", "b.safetensors"), more: str = ""):
    models = "".join(
        f"  - model: {tmp_path / name}\n    parameters: {{statistics: {tmp_path / file}}}\n"
        for name, file in zip("ab", files, strict=True)
    )
    [recipe] = parse_recipes(f"merge_method: {method}\nmodels:\n{models}{more}", where="merge.yml")
    return plan_merge(recipe, {m: open_folder(Source(Path(m.source), str(m), None)) for m in recipe.models()})


@pytest.mark.parametrize(
    ("method", "setting", "message"),
    [
        ("regmean", "alpha: 2", "alpha is from 0 to 1"),
        ("regmean", "weight: 0", "expected none below 0 and one above"),
        ("fisher", "floor: -1", "expected a number from 0"),
        ("fisher", "weight: -1", "expected none below 0 and one above"),
    ],
)
def test_parameters_that_cannot_be_are_known_before_any_work(method, setting, message, gathered, tmp_path):
    with pytest.raises(InputError, match=message):
        planned(tmp_path, method, more=f"parameters: {{{setting}}}")


@pytest.mark.parametrize("method", ["regmean", "fisher"])
def test_a_folder_is_merged_by_what_its_files_say(method, gathered, tmp_path):
    folders, statistics = gathered
    plan = planned(tmp_path, method)
    (tmp_path / "out").mkdir()
    run_merge(plan, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    given = [load_file(folder / "model.safetensors") for folder in folders]
    mean = np.mean(
        [
            torch.cat([v.flatten() for k, v in one.items() if k.startswith("fisher")]).double().mean()
            for one in statistics
        ]
    )
    regressed = 0
    for name, values in found.items():
        numbers = [one[name].double().numpy() for one in given]
        key = f"{'gram' if method == 'regmean' else 'fisher'}/{ENCODER}/{name}"
        if method == "regmean":
            key = key.replace("key.weight", "query.weight").replace("value.weight", "query.weight")
        its = [one[key].double().numpy() for one in statistics if key in one]
        if not its:
            expected = sum(numbers) / 2
        elif method == "regmean":
            regressed += 1
            expected = plain_regmean(numbers, its, [1, 1], 0.9, 1e-6)
        else:
            raised = [np.maximum(one, 1e-6 * mean) for one in its]
            expected = sum(n * r for n, r in zip(numbers, raised, strict=True)) / sum(raised)
        np.testing.assert_allclose(values.numpy(), expected, rtol=2e-6, atol=1e-7, err_msg=name)
    assert regressed == (12 if method == "regmean" else 0)
    assert plan.statistics == {str(tmp_path / name): tmp_path / f"{name}.safetensors" for name in "ab"}
    if method == "regmean":
        assert any("two Gram matrices of the widest layer" in note for note in plan.notes)
        assert any("64 inputs" in note for note in plan.notes)
        assert any(
            note.startswith("Averaged, without Gram matrices of their own, like biases and norms: emb")
            for note in plan.notes
        )
    else:
        assert not plan.notes


def test_layers_of_a_slice_have_the_statistics_that_they_had_in_their_model(gathered, tmp_path):
    folders, statistics = gathered
    sources = "".join(
        f"  - {{model: {folder}, layer_range: [{first}, {first + 1}], "
        f"parameters: {{statistics: {folder}.safetensors}}}}\n"
        for folder, first in zip(folders, (1, 0), strict=True)
    )
    [recipe] = parse_recipes(f"merge_method: fisher\nslices:\n- sources:\n{sources}")
    models = {m: open_folder(Source(Path(m.source), str(m), None)) for m in recipe.models()}
    (tmp_path / "out").mkdir()
    run_merge(plan_merge(recipe, models), tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    name = "encoder.layer.{}.output.dense.weight"
    shares, numbers = [], []
    for folder, one, layer in zip(folders, statistics, (1, 0), strict=True):
        shares.append(one[f"fisher/{ENCODER}/{name.format(layer)}"].double())
        numbers.append(load_file(folder / "model.safetensors")[name.format(layer)].double())
    expected = (shares[0] * numbers[0] + shares[1] * numbers[1]) / (shares[0] + shares[1])
    torch.testing.assert_close(found[name.format(0)].double(), expected, rtol=1e-4, atol=1e-5)


def test_rows_follow_their_tokens_where_vocabularies_differ(gathered, tmp_path):
    folders, statistics = gathered
    names = list(tiny.tokenizer("bert").get_vocab())
    missing = names[40]
    # the second model: two tokens change their numbers, and one is not known
    path = folders[1] / "tokenizer.json"
    text = path.read_text()
    document = json.loads(text)
    ids = document["model"]["vocab"]
    first, second = sorted(ids, key=ids.get)[60:62]
    ids[first], ids[second] = ids[second], ids[first]
    ids["never"] = ids.pop(missing)
    path.write_text(json.dumps(document))
    plan = planned(tmp_path, "fisher", more="tokenizer_source: base\n")
    (tmp_path / "out").mkdir()
    run_merge(plan, tmp_path / "out")
    name = "embeddings.word_embeddings.weight"
    found = load_file(tmp_path / "out" / "model.safetensors")[name].double()
    one, two = (load_file(folder / "model.safetensors")[name].double() for folder in folders)
    matter = [each[f"fisher/{ENCODER}/{name}"].double() for each in statistics]
    old = json.loads(text)["model"]["vocab"]
    own, other = old[first], old[second]
    expected = (matter[0][own] * one[own] + matter[1][other] * two[other]) / (
        matter[0][own] + matter[1][other]
    )
    torch.testing.assert_close(found[own], expected, rtol=1e-6, atol=1e-6)
    # whom no text of the second model could tell: the first model's row
    torch.testing.assert_close(found[old[missing]], one[old[missing]], rtol=1e-4, atol=1e-5)


def test_a_file_is_read_by_the_safetensors_library_too(gathered, tmp_path):
    _, [first, _] = gathered
    with safe_open(tmp_path / "a.safetensors", "pt") as opened:
        assert "tercet_merge_statistics" in opened.metadata()
    loaded = load_file(tmp_path / "a.safetensors")
    assert loaded.keys() == first.keys()
    assert all(torch.equal(loaded[name], first[name]) for name in first)


def test_statistics_that_do_not_belong_are_refused_with_the_mend(gathered, tmp_path):
    folders, _ = gathered
    with pytest.raises(
        CheckpointError, match=r"a.safetensors was gathered with other weights .* gather it anew: terc"
    ):
        planned(tmp_path, "fisher", files=("a.safetensors", "a.safetensors"))
    with pytest.raises(InputError, match=r"no such file of statistics.*tercet merge statistics MODEL TEXTS"):
        planned(tmp_path, "fisher", files=("a.safetensors", "c.safetensors"))
    with pytest.raises(CheckpointError, match="holds no statistics for merges"):
        planned(tmp_path, "fisher", files=("a.safetensors", "b/model.safetensors"))
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "b.safetensors").read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"cut.safetensors is damaged"):
        planned(tmp_path, "fisher", files=("a.safetensors", "cut.safetensors"))
    [recipe] = parse_recipes(f"merge_method: regmean\nmodels: [{{model: {folders[0]}}}]", where="merge.yml")
    with pytest.raises(InputError, match=r"merge.yml: .*a has no statistics for .*Gather them with"):
        plan_merge(recipe, {m: open_folder(Source(folders[0], "a", None)) for m in recipe.models()})
    with pytest.raises(InputError, match=r"merge.yml, models\[0\]: statistics is 5, expected a text"):
        parse_recipes(
            f"merge_method: fisher\nmodels: [{{model: {folders[0]}, parameters: {{statistics: 5}}}}]",
            where="merge.yml",
        )


def test_files_of_another_kind_or_shape_are_refused(gathered, tmp_path):
    folders, statistics = gathered
    model = open_folder(Source(folders[1], "b", None))
    about = {"weights_sha256": hash_weights(model.folder, model.files), "shared": {}, "fisher_mean": 1.0}
    key = f"{ENCODER}/encoder.layer.0.output.dense.weight"

    def written(name, tensors):
        shapes = {one: tuple(values.shape) for one, values in tensors.items()}
        write_statistics(tmp_path / name, tensors.items(), shapes, about)

    written("small.safetensors", {f"fisher/{key}": torch.ones(3, 3)})
    with pytest.raises(
        CheckpointError, match=r"small.safetensors has no Fisher information of .*other models' files have"
    ):
        planned(tmp_path, "fisher", files=("a.safetensors", "small.safetensors"))
    with pytest.raises(InputError, match=r"small.safetensors holds no Gram matrices.*--kinds gram"):
        planned(tmp_path, "regmean", files=("a.safetensors", "small.safetensors"))
    tensors = {name: one for name, one in statistics[1].items() if name.startswith("fisher/")}
    written("wrong.safetensors", tensors | {f"fisher/{key}": torch.ones(3, 3)})
    with pytest.raises(CheckpointError, match=r"is \(3, 3\) in float32, for .*b it would be \(32, 64\)"):
        planned(tmp_path, "fisher", files=("a.safetensors", "wrong.safetensors"))
    about["fisher_mean"] = None
    written("mean.safetensors", tensors)
    with pytest.raises(
        CheckpointError, match=r"mean.safetensors holds no statistics for merges, or those of"
    ):
        planned(tmp_path, "fisher", files=("a.safetensors", "mean.safetensors"))
    about["fisher_mean"] = 1.0
    written("nan.safetensors", tensors | {f"fisher/{key}": torch.full((32, 64), float("nan"))})
    plan = planned(tmp_path, "fisher", files=("a.safetensors", "nan.safetensors"))
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="holds what no statistics are"):
        run_merge(plan, tmp_path / "out")


def test_a_file_that_is_there_is_kept(gathered, tmp_path):
    folders, _ = gathered
    before = (tmp_path / "a.safetensors").read_bytes()
    with pytest.raises(OutputError, match=r"a.safetensors exists"):
        statistics_of(folders[0], tmp_path / "a.safetensors", 5)
    assert (tmp_path / "a.safetensors").read_bytes() == before
    with pytest.raises(OutputError, match=r"is a folder\. Name a file"):
        statistics_of(folders[0], tmp_path / "a", 5)
    with pytest.raises(InputError, match=r"x.npz: .* end in .safetensors"):
        statistics_of(folders[0], tmp_path / "x.npz", 5)


def test_weights_that_are_nowhere_have_no_statistics(gathered, tmp_path):
    path = tmp_path / "a.safetensors"
    [recipe] = parse_recipes(
        f"merge_method: fisher\nmodels: [{{model: x, parameters: {{statistics: {path}}}}}]"
    )
    folder = open_folder(Source(tmp_path / "a", "x", None))
    with pytest.raises(InputError, match="x is a model with an adapter"):
        plan_merge(recipe, {m: replace(folder, adapter=tmp_path) for m in recipe.models()})


def test_a_saved_header_says_how_it_was_gathered(gathered, tmp_path):
    found = read_statistics(tmp_path / "a.safetensors")
    assert found.has("gram")
    assert found.has("fisher")
    assert found.find("gram", f"{ENCODER}/encoder.layer.1.attention.self.key.weight").shape == (32, 32)
    assert found.find("gram", f"{ENCODER}/pooler.dense.weight") is None
