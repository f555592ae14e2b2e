"""Encoders whose linear layers an engine packs: with nothing packed they are torch's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tiny
from planned import capability, measured
from tercet.batch import Batch
from tercet.checkpoint.layout import Checkpoint, open_checkpoint
from tercet.engines import ENGINES
from tercet.engines import packed as packed_module
from tercet.engines.packed import LinearWeight, PackedEncoder, load_packed
from tercet.layers.linear import Linear, Product, torch_product
from tercet.precision.dtype import DType, Wish
from tercet.precision.planning import plan

BATCH = Batch.from_ids([[2, 8, 9, 3], [2, 3], [2, *([10] * 40), 3], [2, 11, 3]])


def plain(weights: list[LinearWeight]) -> list[Product]:
    """torch's product with each weight as it is."""

    def product_of(weight: torch.Tensor) -> Product:
        return lambda x, _, bias, activation=None, residual=None: torch_product(
            x, weight, bias, activation, residual
        )

    return [product_of(weight.read()) for weight in weights]


@pytest.mark.parametrize("file", ["safetensors", "bin"])
@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta"])
def test_with_nothing_packed_an_encoder_gives_what_torch_gives(
    tmp_path: Path, architecture: str, stored: str, file: str
) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", architecture, dtype=stored, file=file)
    checkpoint = open_checkpoint(folder)
    made = plan(
        checkpoint.footprint(), capability({DType.FLOAT32: measured(1.0)}), Wish("explicit", DType.FLOAT32)
    )
    wanted = ENGINES["torch_packed"].open(checkpoint, made).forward(BATCH)
    found = PackedEncoder(load_packed(checkpoint, plain), 100).forward(BATCH)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)


def test_every_linear_layer_is_given_once_and_keeps_no_weight(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    given: list[LinearWeight] = []

    def noted(weights: list[LinearWeight]) -> list[Product]:
        given.extend(weights)
        return plain(weights)

    encoder = load_packed(open_checkpoint(folder), noted)
    layers = {path: part for path, part in encoder.named_modules() if isinstance(part, Linear)}
    assert [weight.path for weight in given] == list(layers)
    assert all(weight.shape == tuple(layers[weight.path].weight.shape) for weight in given)
    assert [info.name.rsplit(".", 2)[-2] for info in given[0].parts] == ["query", "key", "value"]
    assert all(layer.weight.is_meta for layer in layers.values())
    assert {name for name, p in encoder.named_parameters() if p.is_meta} == {
        f"{path}.weight" for path in layers
    }


def test_reading_a_weight_gives_its_pages_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[str] = []
    monkeypatch.setattr(Checkpoint, "release", lambda self, info: released.append(info.name))
    checkpoint = open_checkpoint(tiny.write_checkpoint(tmp_path / "model", "bert"))
    weights: list[LinearWeight] = []
    load_packed(checkpoint, lambda found: weights.extend(found) or plain(found))
    assert released == [info.name for weight in weights for info in weight.parts]


def test_free_memory_is_given_back_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[None] = []
    monkeypatch.setattr(packed_module, "give_back_free_memory", lambda: trims.append(None))
    checkpoint = open_checkpoint(tiny.write_checkpoint(tmp_path / "model", "bert"))
    engine = PackedEncoder(load_packed(checkpoint, plain), token_budget=51)
    for _ in range(16):
        engine.forward(BATCH)
    assert trims == []
    engine.forward(BATCH)
    assert trims == [None]
    for _ in range(17):
        engine.forward(BATCH)
    assert len(trims) == 2
