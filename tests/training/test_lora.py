import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tercet
import tiny
from tercet.batch import Batch
from tercet.errors import InputError
from tercet.precision.dtype import DType
from tercet.training.lora import save_adapters
from tercet.training.model import Trainable, open_trainable
from tercet.training.recipe import LoraRecipe, read_recipe
from tercet.training.saving import save_trained

TEXTS = list(tiny.TEXTS[:6])


def batch_of(model: Trainable) -> Batch:
    return Batch.from_ids(model.tokenizer.encode(TEXTS, max_length=40).ids)


def dense(model: Trainable) -> torch.Tensor:
    found = model(batch_of(model)).dense
    assert found is not None
    return found


def learn(model: Trainable, steps: int = 4) -> None:
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.1)
    for _ in range(steps):
        ((dense(model) - 0.2) ** 2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "electra", "mpnet"])
def test_adapters_change_nothing_at_first_and_alone_learn(architecture: str, tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", architecture)  # type: ignore[arg-type]
    plain = open_trainable(folder).eval()
    model = open_trainable(folder, lora=LoraRecipe(rank=4), dropout=0.0)
    before = {
        name: one.clone() for name, one in model.encoder.state_dict().items() if ".product." not in name
    }
    torch.testing.assert_close(dense(model.eval()), dense(plain), atol=1e-5, rtol=0)
    learn(model)
    assert not torch.allclose(dense(model), dense(plain), atol=1e-2)
    for name, values in before.items():
        assert torch.equal(model.encoder.state_dict()[name], values)
    # six linear layers in each of two, of two matrices
    assert sum(one.requires_grad for one in model.encoder.parameters()) == 2 * 6 * 2


@pytest.mark.parametrize(("layers", "count"), [("attention", 4), ("feed_forward", 2)])
def test_adapters_stand_where_the_recipe_says(layers: str, count: int, tiny_bert: Path) -> None:
    model = open_trainable(tiny_bert, lora=LoraRecipe(rank=2, layers=layers))  # type: ignore[arg-type]
    assert sum(one.requires_grad for one in model.encoder.parameters()) == 2 * count * 2


def test_a_saved_folder_has_the_adapters_in_its_weights(tiny_bert: Path, tmp_path: Path) -> None:
    model = open_trainable(tiny_bert, lora=LoraRecipe(rank=4, alpha=6.0, dropout=0.1), dropout=0.1)
    learn(model)
    saved = save_trained(model, tmp_path / "saved", DType.FLOAT32, card="")
    found = tercet.load(saved, precision="float32").encode(TEXTS, max_length=40).dense
    torch.testing.assert_close(found, dense(model.eval()).detach(), atol=1e-5, rtol=0)
    names = set(load_file(saved / "model.safetensors"))
    assert names == set(load_file(tiny_bert / "model.safetensors"))


def test_adapters_alone_are_what_was_added(tiny_bert: Path, tmp_path: Path) -> None:
    recipe = LoraRecipe(rank=4, alpha=6.0)
    model = open_trainable(tiny_bert, lora=recipe)
    learn(model)
    saved = save_trained(model, tmp_path / "saved", DType.FLOAT32, card="")
    alone = save_adapters(model.encoder, recipe, tmp_path / "alone", "base")
    config = json.loads((alone / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 6.0, "base")
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_bert, saved))
    adapters = load_file(alone / "adapter_model.safetensors")
    assert len(config["target_modules"]) == 12
    for module in config["target_modules"]:
        low, high = (adapters[f"base_model.model.{module}.lora_{side}.weight"] for side in "AB")
        added = after[f"{module}.weight"] - before[f"{module}.weight"]
        torch.testing.assert_close(added, 1.5 * high @ low, atol=1e-5, rtol=1e-4)
        assert added.abs().max() > 1e-4


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"freeze_body": True, "lora": {}}, "freeze_body and lora: adapters learn in the body"),
        ({"freeze_embeddings": True, "lora": {}}, "freeze_embeddings and lora, which freezes them, too"),
        (
            {"freeze_embeddings": True, "freeze_body": True},
            "freeze_embeddings and freeze_body, which",
        ),
    ],
)
def test_what_is_frozen_is_said_once(keys: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_recipe(
            {
                "model": "minilm",
                "output": {"folder": "out"},
                "data": [{"path": "pairs.jsonl"}],
                "losses": [{"name": "info_nce", "head": "dense"}],
                "steps": 1,
                **keys,
            }
        )
