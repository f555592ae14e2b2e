"""Rerankers that `tercet train` saved: the same scores here and in both peers; it saves the same still."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import tercet
from recorder.train_folders import train_reranker
from recorder.trained_reranker_cases import ARCHIVE, CASES, LENGTHS, PAIRS, unpack, write
from tercet.checkpoint.reranker_files import open_reranker

ANEW = "training saves otherwise now: train_folders.py, then record_trained_rerankers.py --out tests/recorded"


@pytest.fixture(scope="module")
def folders(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return unpack(recordings / ARCHIVE, tmp_path_factory.mktemp("rerankers") / "folders")


@pytest.fixture(scope="module")
def peer(recorded: Callable[[str], Mapping[str, Any]]) -> Mapping[str, Any]:
    return recorded("trained_rerankers")


def close(found: Any, expected: Any) -> None:
    """Within 1e-5 of the largest number: logits are rounded at their own size."""
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_sentence_transformers(
    name: str, folders: dict[str, Path], peer: Mapping[str, Any]
) -> None:
    model = tercet.load_reranker(folders[name], precision="float32", device="cpu")
    assert model.max_length == peer[f"{name}/max_length"]
    close(model.score(PAIRS).numpy(), peer[f"{name}/scores"])
    assert np.ptp(peer[f"{name}/scores"]) > 1e-3
    for length in LENGTHS:
        found = model.score(PAIRS, activation="Identity", max_length=length)
        close(found.numpy(), peer[f"{name}/logits/{length}"])


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_flagembedding(
    name: str, folders: dict[str, Path], peer: Mapping[str, Any]
) -> None:
    model = tercet.load_reranker(folders[name], precision="float32", device="cpu")
    for length in LENGTHS:
        found = model.score(PAIRS, activation="Identity", max_length=length, truncation="only_second")
        close(found.numpy(), peer[f"{name}/flag/{length}"])


@pytest.mark.parametrize("name", CASES)
def test_training_saves_the_rerankers_that_the_peers_were_given(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    given, made = folders[name], train_reranker(tmp_path / "made", name)
    files = [{path.relative_to(one) for path in one.rglob("*") if path.is_file()} for one in (given, made)]
    assert files[0] == files[1], ANEW
    # The card names the version that wrote it.
    for file in (one for one in files[0] if one.suffix == ".json"):
        assert json.loads((made / file).read_text()) == json.loads((given / file).read_text()), (
            f"{file}: {ANEW}"
        )
    ours, theirs = (load_file(one / "model.safetensors") for one in (made, given))
    kinds = [{key: (value.shape, value.dtype) for key, value in one.items()} for one in (ours, theirs)]
    assert kinds[0] == kinds[1], ANEW


@pytest.mark.parametrize("name", CASES)
def test_the_rerankers_that_the_peers_were_given_have_learned(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    base = load_file(write(tmp_path, name) / "base" / "model.safetensors")
    trained = open_reranker(folders[name]).tensors
    stored = load_file(folders[name] / "model.safetensors")
    moved = 0
    for key, info in trained.items():
        before = next(value for own, value in base.items() if own == info.name or own.endswith(key))
        if ("query" in key or "q_lin" in key or ".q." in key) and key.endswith("weight"):
            moved += bool((stored[info.name].float() - before.float()).abs().max() > 0.005)
    assert moved == 2  # a layer's each
