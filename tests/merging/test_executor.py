"""Whole folders merged: names, layers, parts, missing tensors, rounding, and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from tercet.checkpoint.hashing import hash_weights
from tercet.checkpoint.source import Source
from tercet.errors import CheckpointError, InputError, PrecisionError
from tercet.merging.executor import run_merge
from tercet.merging.folder import open_folder
from tercet.merging.methods import METHODS
from tercet.merging.names import Place, place_of
from tercet.merging.planning import plan_merge
from tercet.merging.recipe import parse_recipes
from tercet.merging.statistics_file import write_statistics

STACK = (("pooling", {"modes": ("mean",)}), ("dense", {"out_features": 16}), "normalize")


def planned(text: str, folders: dict[str, Path]):
    [recipe] = parse_recipes(text)
    found = {model: open_folder(Source(folders[str(model)], str(model), None)) for model in recipe.models()}
    return plan_merge(recipe, found)


def merged(tmp_path: Path, text: str, folders: dict[str, Path], **options):
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    return out, run_merge(planned(text, folders), out, **options)


def linear(*names: str, more: str = "") -> str:
    models = "".join(f"  - {{model: {name}, parameters: {{weight: {1.0}}}}}\n" for name in names)
    return f"merge_method: linear\nmodels:\n{models}{more}"


@pytest.fixture
def pair(tmp_path):
    return {
        name: tiny.write_checkpoint(tmp_path / name, seed=number, layers=3)
        for number, name in enumerate("ab")
    }


def test_the_mean_of_two_models_is_the_mean_of_their_tensors(pair, tmp_path):
    out, report = merged(tmp_path, linear("a", "b"), pair)
    a, b, found = (load_file(folder / "model.safetensors") for folder in (pair["a"], pair["b"], out))
    assert found.keys() == a.keys()
    for name in a:
        assert torch.equal(found[name], ((a[name].double() + b[name].double()) / 2).float())
    assert report.total.numbers == sum(one.numel() for one in a.values())
    assert report.total.relative_error < 2**-24


@pytest.mark.parametrize(
    "change",
    [
        {"prefix": "bert."},
        {"prefix": "0.auto_model."},
        {"gamma_beta": True},
        {"file": "bin"},
        {"file": "legacy-bin"},
        {"shards": 3},
    ],
    ids=str,
)
def test_how_the_other_model_is_stored_changes_nothing(change, pair, tmp_path):
    expected, _ = merged(tmp_path, linear("a", "b"), pair)
    other = tiny.write_checkpoint(tmp_path / "other", seed=1, layers=3, **change)
    (tmp_path / "second").mkdir()
    found, _ = merged(tmp_path / "second", linear("a", "b"), {**pair, "b": other})
    left, right = (load_file(folder / "model.safetensors") for folder in (expected, found))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_the_same_recipe_gives_the_same_bytes(pair, tmp_path):
    text = linear("a", "b", more="base_model: a\nparameters: {density: 0.5}").replace("linear", "dare_ties")
    first, _ = merged(tmp_path, text, pair)
    written = (first / "model.safetensors").read_bytes()
    second, _ = merged(tmp_path, text, pair)
    assert (second / "model.safetensors").read_bytes() == written
    third, _ = merged(tmp_path, f"{text}\nseed: 1", pair)
    assert (third / "model.safetensors").read_bytes() != written


def test_gradients_follow_the_layers_and_the_rest_has_their_start(pair, tmp_path):
    text = "merge_method: passthrough\nmodels:\n  - {model: a, parameters: {scale: [2, 4]}}"
    out, _ = merged(tmp_path, text, pair)
    a, found = load_file(pair["a"] / "model.safetensors"), load_file(out / "model.safetensors")
    for name, tensor in a.items():
        layer = place_of(name)[0].layer
        factor = 2 if layer is None else 2 + layer
        torch.testing.assert_close(found[name], factor * tensor, rtol=1e-7, atol=0)


def test_slices_put_layers_of_several_models_in_a_row(pair, tmp_path):
    text = """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 2]}]
  - sources: [{model: b, layer_range: [1, 3]}]
"""
    plan = planned(text, pair)
    out, _ = merged(tmp_path, text, pair)
    a, b = (load_file(pair[name] / "model.safetensors") for name in "ab")
    found = load_file(out / "model.safetensors")
    name = "encoder.layer.{}.output.dense.weight"
    for layer, (model, source) in enumerate([(a, 0), (a, 1), (b, 1), (b, 2)]):
        assert torch.equal(found[name.format(layer)], model[name.format(source)])
    assert name.format(4) not in found
    assert [layer for _, layer in plan.layers] == [0, 1, 1, 2]
    first, last = "embeddings.word_embeddings.weight", "pooler.dense.weight"
    assert torch.equal(found[first], a[first])
    assert torch.equal(found[last], b[last])


def test_modules_and_heads_are_merged_like_the_encoder(tmp_path):
    stacks = {
        name: tiny.write_checkpoint(
            tmp_path / name, layout="sentence-transformers", modules=STACK, seed=number
        )
        for number, name in enumerate("ab")
    }
    out, report = merged(tmp_path, linear("a", "b"), stacks)
    a, b, found = (load_file(f / "2_Dense/model.safetensors") for f in (stacks["a"], stacks["b"], out))
    torch.testing.assert_close(found["linear.weight"], (a["linear.weight"] + b["linear.weight"]) / 2)
    assert "Dense.linear.weight" in {one.name for one in report.tensors}


def test_bge_m3_heads_are_merged(tmp_path):
    folders = {
        name: tiny.write_checkpoint(tmp_path / name, "xlm-roberta", layout="bge-m3", seed=number)
        for number, name in enumerate("ab")
    }
    out, _ = merged(tmp_path, linear("a", "b"), folders)
    for head in ("sparse_linear.pt", "colbert_linear.pt"):
        a, b, found = (torch.load(folder / head) for folder in (folders["a"], folders["b"], out))
        for name in ("weight", "bias"):
            assert found[name].dtype == torch.float16
            assert torch.equal(found[name], ((a[name].double() + b[name].double()) / 2).half())


def test_a_tensor_without_a_partner_is_an_error_with_the_names(tmp_path):
    folders = {
        "a": tiny.write_checkpoint(tmp_path / "a"),
        "b": tiny.write_checkpoint(tmp_path / "b", pooler=False),
    }
    with pytest.raises(CheckpointError, match=r"pooler.dense.weight \(32, 32\): not in b") as caught:
        planned(linear("a", "b"), folders)
    assert "missing: base" in str(caught.value)
    a = load_file(folders["a"] / "model.safetensors")
    for rule, there in (("drop", False), ("average", True), ("base", True)):
        text = linear("a", "b", more=f"base_model: a\nmissing: {rule}")
        out, report = merged(tmp_path, text, folders)
        found = load_file(out / "model.safetensors")
        assert ("pooler.dense.weight" in found) is there
        if there:
            assert torch.equal(found["pooler.dense.weight"], a["pooler.dense.weight"])
        assert any("pooler.dense.weight" in note for note in report.notes)


def test_missing_from_the_base_needs_a_base(pair):
    with pytest.raises(InputError, match=r"there is no base_model\. Name one, or choose missing: average"):
        planned(linear("a", "b", more="missing: base"), pair)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("merge_method: linear\nparameters: {weight: 0}", "add up to zero"),
        (
            "merge_method: della\nbase_model: a\nparameters: {weight: 1, density: 0.1, epsilon: 0.5}",
            "Choose a smaller epsilon",
        ),
        ("merge_method: ties\nbase_model: a\nparameters: {weight: 1, density: -1}", "a number from 0"),
        (
            "merge_method: breadcrumbs\nbase_model: a\nparameters: {weight: 1, density: 0.5, gamma: -0.1}",
            "gamma is -0.1, expected a number from 0",
        ),
        (
            "merge_method: della\nbase_model: a\nparameters: {weight: 1, density: 0.5, epsilon: -1}",
            "epsilon is -1, expected a number from 0",
        ),
        ("merge_method: sce\nbase_model: a\nparameters: {select_topk: -1}", "a number from 0"),
    ],
)
def test_parameters_that_a_method_refuses_are_known_before_any_work(text, message, pair):
    with pytest.raises(InputError, match=message):
        planned(f"{text}\nmodels: [{{model: a}}, {{model: b}}]", pair)


def test_vocabularies_that_cannot_be_compared_are_noted(pair):
    (pair["b"] / "tokenizer.json").unlink()
    assert planned(linear("a", "b"), pair).notes == (
        "Vocabularies were not compared: b has no tokenizer.json.",
    )
    (pair["a"] / "tokenizer.json").unlink()
    assert planned(linear("a", "b"), pair).notes == ()


def test_buffers_of_whole_numbers_are_copied_if_they_are_the_same(tmp_path):
    folders = {n: tiny.write_checkpoint(tmp_path / n, position_ids=True, seed=i) for i, n in enumerate("ab")}
    out, _ = merged(tmp_path, linear("a", "b"), folders)
    name = "embeddings.position_ids"
    assert load_file(out / "model.safetensors")[name].dtype == torch.int64
    path = folders["b"] / "model.safetensors"
    tensors = load_file(path)
    tensors[name] = tensors[name] + 1
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="whole numbers that differ"):
        merged(tmp_path, linear("a", "b"), folders)


def test_dtypes_are_promoted_unless_one_is_asked_for(tmp_path):
    folders = {
        "a": tiny.write_checkpoint(tmp_path / "a", dtype="bfloat16"),
        "b": tiny.write_checkpoint(tmp_path / "b", dtype="float16", seed=1),
    }
    for more, dtype in (("", "float32"), ("dtype: bfloat16", "bfloat16"), ("out_dtype: float16", "float16")):
        out, report = merged(tmp_path, linear("a", "b", more=more), folders)
        assert {one.dtype for one in report.tensors} == {dtype}
        found = load_file(out / "model.safetensors")
        assert {str(one.dtype) for one in found.values()} == {f"torch.{dtype}"}


def test_what_lies_on_a_threshold_is_in_the_report(pair, tmp_path):
    for folder, value in ((pair["a"], 0.0), (pair["b"], 2.0)):
        tensors = load_file(folder / "model.safetensors")
        save_file(
            {name: torch.full_like(one, value) for name, one in tensors.items()}, folder / "model.safetensors"
        )
    text = linear("a", "b", more="base_model: a\nparameters: {density: 0.5}").replace("linear", "ties")
    out, report = merged(tmp_path, text, pair)
    for one in report.tensors:
        assert one.on_threshold == one.numbers
        kept = load_file(out / "model.safetensors")[one.name].count_nonzero()
        assert kept == one.numbers // 2
    assert report.to_json()["all"]["on_threshold"] == report.total.numbers


def write_tensor(folder: Path, name: str, value: float) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[name].view(-1)[3] = value
    save_file(tensors, path)


def test_what_is_beyond_the_format_is_refused_or_counted(pair, tmp_path):
    write_tensor(pair["a"], "pooler.dense.weight", -2e5)
    write_tensor(pair["a"], "pooler.dense.bias", 4e-9)
    write_tensor(pair["b"], "pooler.dense.bias", 4e-9)
    text = linear("a", "b", more="out_dtype: float16")
    with pytest.raises(
        PrecisionError, match=r"pooler.dense.weight: 1 results such as .* out_dtype: bfloat16"
    ):
        merged(tmp_path, text, pair)
    out, report = merged(tmp_path, text, pair, allow_overflow=True)
    assert report.total.overflowed == 1
    assert report.total.flushed >= 1
    assert load_file(out / "model.safetensors")["pooler.dense.weight"].view(-1)[3] == -65504


def test_a_nan_is_refused_with_the_model_that_has_it(pair, tmp_path):
    write_tensor(pair["b"], "pooler.dense.weight", float("nan"))
    for method in ("linear", "dare_ties", "sce", "ram", "arcee_fusion", "slerp", "karcher", "nearswap"):
        text = linear("a", "b", more="base_model: a\nparameters: {t: 0.5}").replace("linear", method)
        with pytest.raises(
            PrecisionError, match=r"weight: 1 numbers of .*b/model.safetensors are not finite"
        ):
            merged(tmp_path, text, pair, allow_overflow=True)


def test_the_report_has_the_error_of_rounding(tmp_path):
    folders = {n: tiny.write_checkpoint(tmp_path / n, dtype="bfloat16", seed=i) for i, n in enumerate("ab")}
    out, report = merged(tmp_path, linear("a", "b"), folders)
    a, b, found = (load_file(f / "model.safetensors") for f in (folders["a"], folders["b"], out))
    for one in report.tensors:
        exact = (a[one.name].double() + b[one.name].double()) / 2
        error = (found[one.name].double() - exact).norm()
        assert one.relative_error == pytest.approx(float(error / exact.norm()), rel=1e-9)
        assert one.delta_error == pytest.approx(
            float(error / (exact - a[one.name].double()).norm()), rel=1e-9
        )
    assert json.dumps(report.to_json())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'gelu' in a, 'relu' in b"),
        ({"layers": 2}, "different numbers of layers: a has 3, b has 2"),
        ({"max_positions": 40}, "texts of different lengths"),
        ({"hidden": 16, "hidden_act": "relu"}, "hidden_size is 32 in a, 16 in b.*cannot be merged"),
    ],
)
def test_models_that_do_not_fit_together_are_refused(change, message, tmp_path):
    folders = {
        "a": tiny.write_checkpoint(tmp_path / "a", layers=3),
        "b": tiny.write_checkpoint(tmp_path / "b", **{"layers": 3, **change}),
    }
    with pytest.raises(CheckpointError, match=message):
        planned(linear("a", "b"), folders)


def test_settings_must_agree_or_be_chosen(tmp_path):
    def stack(name, **settings):
        modules = (("pooling", {"modes": (settings.pop("mode"),)}), "normalize")
        return tiny.write_checkpoint(
            tmp_path / name, layout="sentence-transformers", modules=modules, **settings
        )

    folders = {"a": stack("a", mode="mean", prompts={"query": "q: "}), "b": stack("b", mode="cls")}
    with pytest.raises(CheckpointError, match=r"(?s)module 1 is pooling.*prompts is.*settings_from"):
        planned(linear("a", "b"), folders)
    plan = planned(linear("a", "b", more="settings_from: b"), folders)
    assert plan.donor.name == "b"
    assert any("those of b were taken" in note for note in plan.notes)


def test_another_vocabulary_is_refused(pair):
    path = pair["b"] / "tokenizer.json"
    path.write_text(path.read_text().replace('"river"', '"creek"'))
    with pytest.raises(CheckpointError, match=r"differ in 2 of .* tokens \('river', 'creek'\)"):
        planned(linear("a", "b"), pair)


def test_layers_that_are_not_there_are_refused(pair):
    text = "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [2, 5]}]}]"
    with pytest.raises(InputError, match=r"layer_range \[2, 5\] of a, which has 3 layers"):
        planned(text, pair)


def test_names_are_the_same_without_their_prefixes():
    places = [
        place_of(name)[0]
        for name in (
            "encoder.layer.11.output.LayerNorm.gamma",
            "bert.encoder.layer.11.output.LayerNorm.weight",
            "0.auto_model.encoder.layer.11.output.LayerNorm.weight",
        )
    ]
    assert set(places) == {Place("encoder.layer.{}.output.LayerNorm.weight", 11)}
    assert place_of("model.layers.3.mlp.up_proj.weight") == (
        Place("layers.{}.mlp.up_proj.weight", 3),
        "model.layers.{}.mlp.up_proj.weight",
    )


MEMORY = """
import sys, torch
from pathlib import Path
from tercet.checkpoint.source import Source
from tercet.precision.memory import peak_process_memory
torch.set_num_threads(1)
torch.ones(10) @ torch.ones(10)
before = peak_process_memory()
from tercet.merging.executor import run_merge
from tercet.merging.folder import open_folder
from tercet.merging.planning import plan_merge
from tercet.merging.recipe import parse_recipes
root = Path(sys.argv[1])
[recipe] = parse_recipes(sys.argv[2])
models = {m: open_folder(Source(root / str(m), str(m), None)) for m in recipe.models()}
run_merge(plan_merge(recipe, models), root / "out")
print(peak_process_memory() - before)
"""


@pytest.mark.parametrize(
    ("method", "parameters"),
    [("ties", "{weight: 1, density: 0.4, rescale: true}"), ("arcee_fusion", "{}")],
)
def test_memory_does_not_grow_with_the_tensor(method, parameters, tmp_path):
    names = ("base", "a") if method != "ties" else ("base", "a", "b", "c")
    for number, name in enumerate(names):
        folder = tmp_path / name
        folder.mkdir()
        table = torch.randn(6000, 1024, generator=torch.Generator().manual_seed(number)).half()
        save_file({"embeddings.word_embeddings.weight": table}, folder / "model.safetensors")
    (tmp_path / "out").mkdir()
    listed = "".join(f"  - {{model: {name}}}\n" for name in names[1:])
    text = f"merge_method: {method}\nbase_model: base\nparameters: {parameters}\nmodels:\n{listed}"
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), text], capture_output=True, text=True, check=True
    )
    # one tensor is 47 MiB in float64; with its task vectors, magnitudes and masks ties would hold ten of them
    assert int(done.stdout) < 256 << 20


EVERY = """
import sys, torch
from pathlib import Path
from tercet.checkpoint.source import Source
from tercet.precision.memory import peak_process_memory
torch.set_num_threads(1)
torch.ones(10) @ torch.ones(10)
before = peak_process_memory()
from tercet.merging.executor import run_merge
from tercet.merging.folder import open_folder
from tercet.merging.methods import METHODS
from tercet.merging.planning import plan_merge
from tercet.merging.recipe import parse_recipes
from tercet.merging.streaming import working_bytes
imported = peak_process_memory()
root = Path(sys.argv[1])
for name in sorted(METHODS.names(), key=lambda name: name == "regmean"):
    method = METHODS[name]
    least, most = method.inputs
    count = min(3 if most is None else most, 3)
    values = {"weight": 1, "density": 0.5, "t": 0.3, "scale": 2, "select_topk": 0.5, "rescale": "true"}
    known = {one.name for one in method.parameters}
    given = ", ".join(f"{key}: {value}" for key, value in values.items() if key in known)
    text = f"merge_method: {name}\\nparameters: {{{given}}}\\nmodels:\\n"
    for one in "abc"[:count]:
        text += f"  - model: {one}\\n"
        if "statistics" in known:
            text += f"    parameters: {{statistics: {root / one}.safetensors}}\\n"
    text += "base_model: base\\n" * (method.base == "required")
    [recipe] = parse_recipes(text)
    models = {m: open_folder(Source(root / str(m), str(m), None)) for m in recipe.models()}
    out = root / name
    out.mkdir()
    plan = plan_merge(recipe, models)
    run_merge(plan, out, allow_overflow=True)
    [tensor] = plan.tensors
    stated = working_bytes(tensor.method, tensor.task, len(tensor.sources))
    peak = peak_process_memory()
    print(name, peak - before, peak - imported, stated)
"""


@pytest.mark.slow
def test_no_method_takes_more_memory_than_a_check_says_and_256_mebibytes(tmp_path):
    for number, name in enumerate(("base", "a", "b", "c")):
        folder = tmp_path / name
        folder.mkdir()
        generator = torch.Generator().manual_seed(number)
        name, table = "embeddings.word_embeddings.weight", torch.randn(4000, 1024, generator=generator).half()
        save_file({name: table}, folder / "model.safetensors")
        square = table.float()[:1024].T @ table.float()[:1024]
        found = {f"gram/encoder/{name}": square, f"fisher/encoder/{name}": table.float() ** 2}
        about = {"shared": {}, "fisher_mean": 1.0}
        about["weights_sha256"] = hash_weights(folder, [folder / "model.safetensors"])
        shapes = {key: tuple(values.shape) for key, values in found.items()}
        write_statistics(folder.with_suffix(".safetensors"), found.items(), shapes, about)
    command = [sys.executable, "-c", EVERY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert sorted(name for name, *_ in lines) == list(METHODS.names())
    # the peak is that of all methods so far; what a check says is beside what Python has imported
    assert int(lines[-2][1]) < 256 << 20
    assert int(lines[-2][2]) < max(int(stated) for *_, stated in lines[:-1])
    # regmean holds Gram matrices, and says what that takes
    assert lines[-1][0] == "regmean"
    assert int(lines[-1][2]) < int(lines[-1][3])
