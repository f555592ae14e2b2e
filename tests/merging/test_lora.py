"""LoRA adapters folded into their base: every form that peft writes of a product that is added."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
import tiny_reranker
from tercet.errors import CheckpointError
from tercet.workflows.merge import merge

QUERY = "encoder.layer.0.attention.self.query"
VALUE = "encoder.layer.1.attention.self.value"
TABLE = "embeddings.word_embeddings"


def adapter(folder: Path, tensors: dict[str, torch.Tensor], **config: object) -> Path:
    folder.mkdir()
    named = {f"base_model.model.{name}": one for name, one in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "fan_in_fan_out": False, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def factors(module: str, out: int, into: int, *, rank: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {
        f"{module}.lora_A.weight": torch.randn(rank, into, generator=made),
        f"{module}.lora_B.weight": torch.randn(out, rank, generator=made),
    }


def folded(tmp_path: Path, base: Path, lora: Path | str) -> dict[str, torch.Tensor]:
    """Through a recipe of one model, in float64."""
    path = tmp_path / "fold.yml"
    path.write_text(f"merge_method: passthrough\nmodels: [{{model: {base}+{lora}}}]\nout_dtype: float64\n")
    done = merge(path, tmp_path / "folded", try_out=False, overwrite=True)
    return load_file(done.folder / "model.safetensors")


@pytest.fixture
def base(tmp_path):
    return tiny.write_checkpoint(tmp_path / "base")


def test_the_product_is_added_to_the_weights_and_nothing_else_changes(base, tmp_path):
    ab = {**factors(QUERY, 32, 32), **factors(VALUE, 32, 32, rank=2, seed=1)}
    found = folded(tmp_path, base, adapter(tmp_path / "lora", ab))
    before = load_file(base / "model.safetensors")
    for module, scale in ((QUERY, 6 / 4), (VALUE, 6 / 2)):
        product = ab[f"{module}.lora_B.weight"].double() @ ab[f"{module}.lora_A.weight"].double()
        expected = before.pop(f"{module}.weight").double() + scale * product
        torch.testing.assert_close(found[f"{module}.weight"], expected, rtol=1e-14, atol=1e-14)
    assert all(torch.equal(found[name], one.double()) for name, one in before.items())


def test_alpha_of_single_modules_and_rank_stabilised_scales(base, tmp_path):
    ab = {**factors(QUERY, 32, 32), **factors(VALUE, 32, 32)}
    pattern = {"attention.self.value": 10}
    lora = adapter(tmp_path / "lora", ab, use_rslora=True, alpha_pattern=pattern)
    found, before = folded(tmp_path, base, lora), load_file(base / "model.safetensors")
    for module, scale in ((QUERY, 6 / 4**0.5), (VALUE, 10 / 4**0.5)):
        product = ab[f"{module}.lora_B.weight"].double() @ ab[f"{module}.lora_A.weight"].double()
        expected = before[f"{module}.weight"].double() + scale * product
        torch.testing.assert_close(found[f"{module}.weight"], expected, rtol=1e-14, atol=1e-14)


def test_embeddings_and_weights_with_the_input_first_take_the_product_transposed(base, tmp_path):
    before = load_file(base / "model.safetensors")
    rows = len(before[f"{TABLE}.weight"])
    made = torch.Generator().manual_seed(3)
    a, b = torch.randn(4, rows, generator=made), torch.randn(32, 4, generator=made)
    lora = adapter(tmp_path / "one", {f"{TABLE}.lora_embedding_A": a, f"{TABLE}.lora_embedding_B": b})
    expected = before[f"{TABLE}.weight"].double() + 1.5 * (b.double() @ a.double()).T
    found = folded(tmp_path, base, lora)[f"{TABLE}.weight"]
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
    up = "encoder.layer.0.intermediate.dense"  # (64, 32) as stored: 64 inputs and 32 outputs of such a layer
    ab = factors(up, 32, 64)
    found = folded(tmp_path, base, adapter(tmp_path / "two", ab, fan_in_fan_out=True))[f"{up}.weight"]
    product = ab[f"{up}.lora_B.weight"].double() @ ab[f"{up}.lora_A.weight"].double()
    expected = before[f"{up}.weight"].double() + 1.5 * product.T
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


def test_a_head_that_was_trained_whole_takes_the_place_of_the_models(tmp_path):
    base = tiny_reranker.write_reranker(tmp_path / "base", "xlm-roberta")
    before = load_file(base / "model.safetensors")
    head = {"classifier.out_proj.weight": torch.randn(1, 32), "classifier.out_proj.bias": torch.randn(1)}
    ab = factors(f"roberta.{QUERY}", 32, 32)
    bias = {f"roberta.{QUERY}.lora_B.bias": torch.randn(32)}
    lora = adapter(tmp_path / "lora", {**head, **ab, **bias}, modules_to_save=["classifier"])
    found = folded(tmp_path, base, lora)
    assert all(torch.equal(found[name], one.double()) for name, one in head.items())
    expected = before[f"roberta.{QUERY}.bias"].double() + 1.5 * bias[f"roberta.{QUERY}.lora_B.bias"].double()
    torch.testing.assert_close(found[f"roberta.{QUERY}.bias"], expected, rtol=1e-14, atol=1e-14)


def test_an_adapted_model_is_merged_like_any_other(base, tmp_path):
    other = tiny.write_checkpoint(tmp_path / "other", seed=1)
    ab = factors(QUERY, 32, 32)
    lora = adapter(tmp_path / "lora", ab)
    path = tmp_path / "merge.yml"
    models = f"models: [{{model: {base}+{lora}}}, {{model: {other}}}]"
    path.write_text(f"merge_method: linear\nparameters: {{weight: 1}}\n{models}\n")
    done = merge(path, tmp_path / "out")
    found, one, two = (
        load_file(f / "model.safetensors")[f"{QUERY}.weight"] for f in (done.folder, base, other)
    )
    product = ab[f"{QUERY}.lora_B.weight"].double() @ ab[f"{QUERY}.lora_A.weight"].double()
    assert torch.equal(found, ((one.double() + 1.5 * product + two.double()) / 2).float())
    assert str(lora) in (done.folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, r"adapter_config.json has use_dora: .*merge_and_unload"),
        ({"peft_type": "IA3"}, "type IA3, only LORA"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights: pissa_niter_4"),
        ({"lora_alpha": "six"}, "lora_alpha is 'six'"),
        ({"fan_in_fan_out": True}, r"\(32, 64\), the model's are \(64, 32\)"),
    ],
)
def test_an_adapter_of_another_kind_is_refused_with_the_mend(config, message, base, tmp_path):
    lora = adapter(tmp_path / "lora", factors("encoder.layer.0.intermediate.dense", 64, 32), **config)
    with pytest.raises(CheckpointError, match=message):
        folded(tmp_path, base, lora)


def test_an_adapter_of_another_model_and_no_adapter_are_said(base, tmp_path):
    lora = adapter(tmp_path / "lora", factors("encoder.layer.7.attention.self.query", 32, 32))
    with pytest.raises(CheckpointError, match=r"layer\.7.*does not have.*base_model_name_or_path"):
        folded(tmp_path, base, lora)
    with pytest.raises(CheckpointError, match=r"no adapter_config\.json"):
        folded(tmp_path, base, base)
    half = factors(QUERY, 32, 32)
    del half[f"{QUERY}.lora_B.weight"]
    with pytest.raises(CheckpointError, match="one matrix A and one B"):
        folded(tmp_path, base, adapter(tmp_path / "half", half))
