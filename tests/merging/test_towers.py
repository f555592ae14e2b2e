"""Checkpoints of several towers: each merged by its own entry of `modules`, layers counted in each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from tercet.errors import InputError
from tercet.workflows.merge import merge
from tercet.workflows.merge_check import check_merge

TEXT, VISION = "text_model.encoder.layers", "vision_model.encoder.layers"
LOOSE = ("text_model.embeddings.token_embedding.weight", "vision_model.post_layernorm.weight", "logit_scale")


def tensors(value: float, *, text: int = 3, vision: int = 2) -> dict[str, torch.Tensor]:
    names = [f"{TEXT}.{n}.mlp.fc1.weight" for n in range(text)]
    names += [f"{VISION}.{n}.mlp.fc1.weight" for n in range(vision)]
    return {name: torch.full((2, 2), value) for name in (*names, *LOOSE)}


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    folders = []
    for value in (0.0, 1.0):
        folder = tmp_path / f"m{value:.0f}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "clip", "num_hidden_layers": 7}))
        save_file(tensors(value), folder / "model.safetensors")
        folders.append(folder)
    return folders


def models(two: list[Path], weight: list[float] | float) -> str:
    """Of the second model `weight`, of the first what is left."""
    left = [1 - one for one in weight] if isinstance(weight, list) else 1 - weight
    shares = json.dumps(left), json.dumps(weight)
    return "".join(
        f"\n      - {{model: {folder}, parameters: {{weight: {share}}}}}"
        for folder, share in zip(two, shares, strict=True)
    )


def made(tmp_path: Path, text: str) -> dict[str, float]:
    (tmp_path / "merge.yml").write_text(f"merge_method: linear\n{text}\n")
    out = merge(tmp_path / "merge.yml", tmp_path / "out", try_out=False).folder
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 7
    return {name: float(one.unique()) for name, one in load_file(out / "model.safetensors").items()}


@pytest.mark.parametrize("called", [(TEXT, VISION), ("text_model.encoder", "model.vision_model.encoder")])
def test_each_tower_is_merged_by_its_own_entry(called, two, tmp_path):
    text = f"""modules:
  {called[0]}:
    models:{models(two, [0.0, 1.0])}
  {called[1]}:
    models:{models(two, 0.25)}
  default:
    models:{models(two, 0.75)}
"""
    found = made(tmp_path, text)
    assert [found[f"{TEXT}.{n}.mlp.fc1.weight"] for n in range(3)] == [0, 0.5, 1]
    assert [found[f"{VISION}.{n}.mlp.fc1.weight"] for n in range(2)] == [0.25, 0.25]
    assert [found[name] for name in LOOSE] == [0.75] * 3


def test_an_entry_may_be_the_beginning_of_a_name_and_have_parameters_of_its_own(two, tmp_path):
    plain = "".join(f"\n      - model: {folder}" for folder in two)
    text = f"""parameters: {{weight: 1}}
modules:
  text_model: {{models: [{{model: {two[1]}}}]}}
  default:
    models:{plain}
    parameters: {{weight: 3, normalize: false}}
  vision_model:
    models:{plain}
"""
    found = made(tmp_path, text)
    assert {found[name] for name in found if name.startswith("text_model.")} == {1}
    assert {found[name] for name in found if name.startswith("vision_model.")} == {0.5}
    assert found["logit_scale"] == 3


def test_without_modules_gradients_run_over_the_layers_of_each_tower(two, tmp_path):
    found = made(tmp_path, f"models:{models(two, [0.0, 1.0])}")
    assert [found[f"{TEXT}.{n}.mlp.fc1.weight"] for n in range(3)] == [0, 0.5, 1]
    assert [found[f"{VISION}.{n}.mlp.fc1.weight"] for n in range(2)] == [0, 1]
    assert [found[name] for name in LOOSE] == [0] * 3


def test_layers_of_one_tower_are_taken_from_several_models(two, tmp_path):
    def half(folder: Path, start: int, end: int) -> str:
        return f"{{sources: [{{model: {folder}, layer_range: [{start}, {end}], parameters: {{weight: 1}}}}]}}"

    text = f"""modules:
  text_model: {{slices: [{half(two[0], 0, 1)}, {half(two[1], 1, 3)}]}}
  vision_model: {{slices: [{half(two[1], 0, 2)}]}}
  default: {{models: [{{model: {two[0]}, parameters: {{weight: 1}}}}]}}
"""
    found = made(tmp_path, text)
    assert [found[f"{TEXT}.{n}.mlp.fc1.weight"] for n in range(3)] == [0, 1, 1]
    assert [found[f"{VISION}.{n}.mlp.fc1.weight"] for n in range(2)] == [1, 1]


@pytest.mark.parametrize("called", ["default", "encoder"])
def test_one_tower_may_have_an_entry_of_its_own(called, tmp_path):
    folders = [tiny.write_checkpoint(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    plain = "".join(f"\n      - model: {folder}" for folder in folders)
    text = f"merge_method: linear\nmodules:\n  {called}:\n    parameters: {{weight: 1}}\n    models:{plain}\n"
    (tmp_path / "merge.yml").write_text(text)
    out = merge(tmp_path / "merge.yml", tmp_path / "out", try_out=False).folder
    one, two, found = (load_file(folder / "model.safetensors") for folder in (*folders, out))
    assert all(torch.equal(found[name], (one[name].double() + two[name]).div(2).float()) for name in one)


def test_the_encoder_of_two_has_what_both_share(tmp_path):
    folders = []
    for value in (0.0, 1.0):
        folder = tmp_path / f"t{value:.0f}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "t5", "num_hidden_layers": 7}))
        names = ["shared.weight"]
        for tower in ("encoder", "decoder"):
            names += [f"{tower}.block.{n}.layer.0.SelfAttention.q.weight" for n in (0, 1)]
            names += [f"{tower}.final_layer_norm.weight"]
        save_file({name: torch.full((2, 2), value) for name in names}, folder / "model.safetensors")
        folders.append(folder)
    entries = "".join(
        f"\n  {tower}:\n    models:{models(folders, weight)}"
        for tower, weight in (("decoder", 0.25), ("encoder", 0.75))
    )
    found = made(tmp_path, f"modules:{entries}")
    assert {found[name] for name in found if name.startswith("decoder.")} == {0.25}
    assert {found[name] for name in found if not name.startswith("decoder.")} == {0.75}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "modules: {text_model: &m {models: [{model: m0}]}, default: *m}",
            "no entry for vision_model.encoder",
        ),
        ("modules: {text_model: &m {models: [{model: m0}]}, vision_model: *m}", "no entry for logit_scale"),
        (
            "modules: {text_model: &m {models: [{model: m0}]}, vision_model: *m, default: *m, audio: *m}",
            r"modules\.audio: no tensor is called so. The towers are text_model\.encoder\.layers, vision",
        ),
        ("modules: {default: {models: [{model: m0}]}}", "no entry for text_model"),
        ("slices: [{sources: [{model: m0, layer_range: [0, 2]}]}]", "several towers .*Give modules"),
        (
            "modules: {text_model: {slices: [{sources: [{model: m0, layer_range: [0, 2]}]}]}, "
            "vision_model: &m {models: [{model: m0}]}, default: *m}",
            r"modules\.text_model: its slices have 2 layers, .*m0 has 3\. The depth of one of several",
        ),
        ("modules: {audio: {models: [{model: single}]}}", r"no entry for encoder\.layer\. Give one for each"),
        ("modules: [text_model]", "expected names of towers"),
        ("modules: {text_model: {modles: []}}", "Did you mean 'models'"),
    ],
)
def test_what_no_tower_has_and_who_has_no_tower_is_said_with_the_mend(
    text, message, two, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    tiny.write_checkpoint(tmp_path / "single")
    (tmp_path / "merge.yml").write_text(f"merge_method: linear\nparameters: {{weight: 1}}\n{text}\n")
    with pytest.raises(InputError, match=message):
        check_merge("merge.yml")
