"""Folders that `tercet train` saved: the same outputs here and in both peers; it saves the same still."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tercet
from recorder.train_folders import train_case
from recorder.trained_cases import CASES, PAIRS, TEXTS, WEIGHTS, unpack, write
from tercet.embeddings import MultiVectors, SparseVectors
from tercet.scoring import score_pairs

M3 = [name for name, case in CASES.items() if case.flag is not None]
SCORES = ("colbert", "sparse", "dense", "sparse+dense", "colbert+sparse+dense")
ANEW = "training saves otherwise now: train_folders.py, then record_trained.py --out tests/recorded"
STORED = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module")
def folders(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return unpack(recordings / "trained.zip", tmp_path_factory.mktemp("trained") / "folders")


@pytest.fixture(scope="module")
def peer(recorded: Callable[[str], Mapping[str, Any]]) -> Mapping[str, Any]:
    return recorded("trained")


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, tercet.Embedder]:
    return {name: tercet.load(folder, precision="float32", device="cpu") for name, folder in folders.items()}


def close(found: Any, expected: Any) -> None:
    """Within 1e-5 of the largest number: what is not of unit length is rounded at its own size."""
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)


def offsets(lengths: np.ndarray) -> torch.Tensor:
    return torch.tensor([0, *lengths.tolist()]).cumsum(0)


@pytest.mark.parametrize("name", CASES)
def test_dense_vectors_are_those_of_sentence_transformers_prompts_too(
    name: str, peer: Mapping[str, Any], models: dict[str, tercet.Embedder]
) -> None:
    model, texts = models[name], list(TEXTS)
    assert model.outputs == CASES[name].outputs
    assert model.checkpoint.max_length == peer[f"{name}/max_seq_length"]
    close(model.encode(texts).numpy().dense, peer[f"{name}/sentence_transformers"])
    close(model.encode_query(texts).numpy().dense, peer[f"{name}/as queries"])
    close(model.encode_document(texts).numpy().dense, peer[f"{name}/as documents"])
    prompted = not np.allclose(peer[f"{name}/as queries"], peer[f"{name}/as documents"], atol=1e-3)
    assert prompted == ("prompts" in CASES[name].base)


@pytest.mark.parametrize("name", M3)
def test_all_three_outputs_are_those_of_flagembedding(
    name: str, peer: Mapping[str, Any], models: dict[str, tercet.Embedder]
) -> None:
    # FlagEmbedding brings dense vectors to unit length, whether modules.json says so or not.
    found = models[name].encode(list(TEXTS), outputs=CASES[name].outputs, normalize=True, max_length=60)
    close(found.numpy().dense, peer[f"{name}/dense"])

    ids, weights = (torch.from_numpy(peer[f"{name}/{one}"]) for one in ("token_ids", "weights"))
    assert found.sparse is not None
    theirs = SparseVectors(ids, weights, offsets(peer[f"{name}/entries"]), found.sparse.vocabulary)
    assert len(ids) > 20
    assert found.sparse.allclose(theirs, atol=1e-5 * max(1.0, float(weights.max())))

    assert found.multivector is not None
    vectors = MultiVectors(torch.from_numpy(peer[f"{name}/vectors"]), offsets(peer[f"{name}/rows"]))
    assert vectors.dim == CASES[name].recipe.get("heads", {}).get("multivector", 16)
    assert found.multivector.lengths.tolist() == vectors.lengths.tolist()
    close(found.numpy().multivector.vectors, vectors.numpy().vectors)


@pytest.mark.parametrize("name", M3)
def test_scores_of_pairs_are_those_of_flagembedding(
    name: str, peer: Mapping[str, Any], models: dict[str, tercet.Embedder]
) -> None:
    sides = (
        models[name].encode(
            [pair[side] for pair in PAIRS], outputs=CASES[name].outputs, normalize=True, max_length=60
        )
        for side in (0, 1)
    )
    found = score_pairs(*sides, weights=WEIGHTS).to_dict()
    assert tuple(found) == SCORES
    for key, values in found.items():
        close(values, peer[f"{name}/scores/{key}"])


@pytest.mark.parametrize("name", M3)
def test_both_sparse_paths_of_flagembedding_agree_on_what_training_saves(
    name: str, peer: Mapping[str, Any], models: dict[str, tercet.Embedder]
) -> None:
    # encode leaves out the ids of cls, eos, pad and unk, compute_score all special ones: only where the
    # folder names an eos are these the same.
    special = models[name].tokenizer.special_ids
    assert not special & set(peer[f"{name}/token_ids"].tolist())
    assert peer[f"{name}/scores/sparse"].max() > 0.1


@pytest.mark.parametrize("name", CASES)
def test_training_saves_the_files_that_the_peers_were_given(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    given, made = folders[name], train_case(tmp_path / "made", name)
    files = [{path.relative_to(one) for path in one.rglob("*") if path.is_file()} for one in (given, made)]
    assert files[0] == files[1], ANEW
    # The card names the version that wrote it.
    for file in (one for one in files[0] if one.suffix == ".json"):
        assert json.loads((made / file).read_text()) == json.loads((given / file).read_text()), (
            f"{file}: {ANEW}"
        )
    dtype = STORED[CASES[name].recipe.get("output", {}).get("dtype", "float32")]
    for file in (one for one in files[0] if one.suffix in (".pt", ".safetensors")):
        theirs, ours = tensors(given / file), tensors(made / file)
        assert {key: value.shape for key, value in ours.items()} == {
            key: value.shape for key, value in theirs.items()
        }
        assert {value.dtype for value in (*ours.values(), *theirs.values())} == {dtype}, file


@pytest.mark.parametrize("name", CASES)
def test_what_the_peers_were_given_has_learned(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    base = tensors(write(tmp_path, name) / "base" / "model.safetensors")
    trained = tensors(folders[name] / "model.safetensors")
    moved = [
        key
        for key, value in trained.items()
        if key.endswith("query.weight") and (value.float() - base[key].float()).abs().max() > 0.01
    ]
    assert len(moved) == 2  # a layer's each


def tensors(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".pt":
        found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
        return found
    return load_file(path)
