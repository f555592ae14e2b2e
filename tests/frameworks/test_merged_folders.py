"""Folders that Tercet merged, opened by the peers' own classes and by transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from recorder import merged_kinds
from recorder import record_merged_kinds as peers
from recorder.merged_kinds import KINDS
from tercet.workflows.merge import Merged, merge

CASES = [
    (name, method, peer)
    for name, kind in KINDS.items()
    for method in ("linear", kind.second)
    for peer in kind.peers
]
CLASSES = {"reranker": AutoModelForSequenceClassification, "splade": AutoModelForMaskedLM}


def merged(tmp_path: Path, name: str, method: str) -> tuple[list[Path], Merged]:
    folders = merged_kinds.write(tmp_path, name, method)
    recipe = tmp_path / "merge.yml"
    recipe.write_text(merged_kinds.recipe(method, folders))
    return folders, merge(recipe, tmp_path / "out")


@pytest.mark.parametrize(("name", "method", "peer"), CASES)
def test_a_merged_folder_opens_in_the_peer_and_is_the_model_merged_by_hand(name, method, peer, tmp_path):
    folders, done = merged(tmp_path, name, method)
    assert done.tried.startswith("Loaded")
    expected = peers.merged_by_hand(peer, folders, method)
    found = peers.open_with(peer, done.folder)
    weights, wanted = (peers.network(peer, model).state_dict() for model in (found, expected))
    assert list(weights) == list(wanted)
    for key, tensor in wanted.items():
        if method == "linear":
            assert torch.equal(weights[key], tensor), key
        torch.testing.assert_close(weights[key], tensor, rtol=1e-6, atol=1e-7)
    answers, wished = peers.answers(peer, found), peers.answers(peer, expected)
    assert set(answers) == set(wished)
    for key, value in wished.items():
        assert np.linalg.norm(answers[key] - value) <= 1e-5 * np.linalg.norm(value), key


@pytest.mark.parametrize("name", KINDS)
def test_transformers_opens_a_merged_folder_with_every_weight(name, tmp_path):
    folders, done = merged(tmp_path, name, "linear")
    loader = CLASSES.get(name, AutoModel)
    found, told = loader.from_pretrained(done.folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["mismatched_keys"]
    assert not told["unexpected_keys"]
    assert found.dtype == torch.float32
    one, two = (loader.from_pretrained(folder).state_dict() for folder in folders)
    for key, tensor in found.state_dict().items():
        assert torch.equal(tensor, ((one[key].double() + two[key].double()) / 2).to(tensor.dtype)), key
    tokenizer = AutoTokenizer.from_pretrained(done.folder)
    inputs = tokenizer(["the cat is on the bridge", "a river"], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert found(**inputs)[0].isfinite().all()
