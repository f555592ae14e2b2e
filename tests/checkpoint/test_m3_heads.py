"""BGE-M3's heads: found beside the encoder, fitted to it, never made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from tercet.checkpoint.layout import open_checkpoint
from tercet.errors import CheckpointError


def m3(folder: Path, **options: Any) -> Path:
    return tiny.write_checkpoint(folder, "xlm-roberta", layout="bge-m3", file="bin", **options)


@pytest.mark.parametrize("modules_json", [True, False])
def test_both_heads_come_after_cls_pooling_and_normalisation(tmp_path: Path, modules_json: bool) -> None:
    found = open_checkpoint(m3(tmp_path, modules_json=modules_json, colbert_dim=24))
    assert found.layout == "bge-m3"
    assert [module.kind for module in found.modules] == [
        "pooling",
        "normalize",
        "sparse_linear",
        "colbert_linear",
    ]
    assert found.modules[0].config["modes"] == ("cls",)
    sparse, colbert = found.modules[2:]
    assert {name: (i.shape, i.dtype) for name, i in sparse.tensors.items()} == {
        "weight": ((1, 32), "float16"),
        "bias": ((1,), "float16"),
    }
    assert colbert.tensors["weight"].shape == (24, 32)
    footprint = found.footprint()
    assert footprint.outputs == ("dense", "sparse", "multivector")
    assert footprint.multivector_dim == 24
    assert footprint.dense_dim == 32
    assert footprint.head_numbers == 33 + 24 * 33
    assert any("cls pooling and normalisation are taken" in note for note in found.notes) is not modules_json


@pytest.mark.parametrize(("head", "output"), [("sparse", "sparse"), ("colbert", "multivector")])
def test_one_head_alone_is_read_with_a_note(tmp_path: Path, head: str, output: str) -> None:
    found = open_checkpoint(m3(tmp_path, m3_heads=(head,)))
    assert found.footprint().outputs == ("dense", output)
    missing = {"sparse": "colbert", "colbert": "sparse"}[head]
    assert any(f"{head}_linear.pt is there and {missing}_linear.pt is not" in note for note in found.notes)


@pytest.mark.parametrize(
    ("head", "content"),
    [
        ("sparse", {"weight": torch.ones(1, 768), "bias": torch.ones(1)}),
        ("sparse", {"weight": torch.ones(2, 32), "bias": torch.ones(2)}),
        ("colbert", {"weight": torch.ones(32, 768), "bias": torch.ones(32)}),
        ("colbert", {"weight": torch.ones(32, 32), "bias": torch.ones(16)}),
        ("colbert", {"weight": torch.ones(32), "bias": torch.ones(32)}),
        ("colbert", {"weight": torch.ones(32, 32).long(), "bias": torch.ones(32)}),
    ],
)
def test_a_head_of_another_model_is_refused_with_both_sizes(
    tmp_path: Path, head: str, content: dict[str, torch.Tensor]
) -> None:
    folder = m3(tmp_path)
    torch.save(content, folder / f"{head}_linear.pt")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    message = str(caught.value)
    assert message.startswith(
        f"{folder / f'{head}_linear.pt'}: '{head}_linear.weight' is {tuple(content['weight'].shape)}"
    )
    assert "the encoder's hidden size is 32. The head belongs to another model" in message


def test_a_head_with_other_names_is_refused(tmp_path: Path) -> None:
    folder = m3(tmp_path)
    torch.save({"linear.weight": torch.ones(1, 32)}, folder / "sparse_linear.pt")
    with pytest.raises(
        CheckpointError, match=r"sparse_linear\.pt holds linear\.weight, expected 'weight' and 'bias'"
    ):
        open_checkpoint(folder)


def test_a_damaged_head_is_an_error_and_not_a_missing_one(tmp_path: Path) -> None:
    folder = m3(tmp_path)
    path = folder / "colbert_linear.pt"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"colbert_linear\.pt is damaged or cut off"):
        open_checkpoint(folder)
