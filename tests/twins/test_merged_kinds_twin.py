"""Every kind of folder merged by Tercet, beside the peers' own classes whose weights were merged by hand.

That these classes load the folders themselves is shown in tests/frameworks/test_merged_folders.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

import tercet
from recorder import merged_kinds
from recorder.merged_kinds import KINDS, TEXTS
from tercet.workflows.merge import merge

CASES = [(name, method) for name, kind in KINDS.items() for method in ("linear", kind.second)]
HERE = [case for case in CASES if KINDS[case[0]].here]
ELSEWHERE = [case for case in CASES if not KINDS[case[0]].here]
# What a merge writes beside the model.
WRITTEN = {"README.md", "merge_recipe.yml", "merge_report.json"}


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("merged_kinds")


def merged(tmp_path: Path, name: str, method: str) -> tuple[list[Path], Path]:
    folders = merged_kinds.write(tmp_path, name, method)
    recipe = tmp_path / "merge.yml"
    recipe.write_text(merged_kinds.recipe(method, folders))
    return folders, merge(recipe, tmp_path / "out", try_out=False).folder


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.linalg.norm(found.astype(np.float64) - expected) / np.linalg.norm(expected))


def theirs(peer, name: str, method: str, one: str) -> dict[str, np.ndarray]:
    """What one class of a peer gave."""
    start = f"{name}/{method}/{one}/"
    return {key.removeprefix(start): peer[key] for key in peer if key.startswith(start)}


def table(ids: np.ndarray, weights: np.ndarray, lengths: np.ndarray, vocabulary: int) -> np.ndarray:
    """(texts, vocabulary) with the weights in their places."""
    made = np.zeros((len(lengths), vocabulary))
    made[np.repeat(np.arange(len(lengths)), lengths), ids] = weights
    return made


@pytest.mark.parametrize(("name", "method"), [case for case in HERE if case[0] != "reranker"])
def test_a_merge_embeds_as_a_model_merged_by_hand_in_the_peer(name, method, peer, tmp_path):
    folders, out = merged(tmp_path, name, method)
    model, parent = (tercet.load(one, precision="float32", device="cpu") for one in (out, folders[0]))
    for one in KINDS[name].peers:
        expected = theirs(peer, name, method, one)
        # as FlagEmbedding was told
        length = 60 if one == "BGEM3FlagModel" else None
        found, alone = (m.encode(TEXTS, outputs=m.outputs, max_length=length) for m in (model, parent))
        if "dense" in expected:
            assert relative_error(found.dense.numpy(), expected["dense"]) < 1e-5
            assert relative_error(alone.dense.numpy(), expected["dense"]) > 0.01
        if "weights" in expected:
            wanted = table(
                expected["token_ids"], expected["weights"], expected["entries"], found.sparse.vocabulary
            )
            made, before = (
                table(s.token_ids, s.weights, s.lengths, s.vocabulary) for s in (found.sparse, alone.sparse)
            )
            assert relative_error(made, wanted) < 1e-5
            assert relative_error(before, wanted) > 0.01
        if "vectors" in expected:
            assert found.multivector.lengths.tolist() == expected["rows"].tolist()
            assert relative_error(found.multivector.vectors.numpy(), expected["vectors"]) < 1e-5
            assert relative_error(alone.multivector.vectors.numpy(), expected["vectors"]) > 0.01


@pytest.mark.parametrize("method", ["linear", KINDS["reranker"].second])
def test_a_merge_scores_as_a_reranker_merged_by_hand_in_the_peer(method, peer, tmp_path):
    folders, out = merged(tmp_path, "reranker", method)
    for one in KINDS["reranker"].peers:
        expected = theirs(peer, "reranker", method, one)["scores"]
        found, alone = (
            tercet.load_reranker(folder, precision="float32", device="cpu").score(
                merged_kinds.FLAG_PAIRS, activation="Identity"
            )
            for folder in (out, folders[0])
        )
        assert relative_error(found.numpy(), expected) < 1e-5
        assert relative_error(alone.numpy(), expected) > 0.01


@pytest.mark.parametrize(("name", "method"), ELSEWHERE)
def test_what_only_the_peer_runs_has_the_tensors_of_one_merged_by_hand_there(name, method, peer, tmp_path):
    _, out = merged(tmp_path, name, method)
    found = {}
    for place, entry in enumerate(json.loads((out / "modules.json").read_text())):
        path = out / entry["path"] / "model.safetensors"
        if path.is_file():
            found |= {f"{place}/{key}": one.numpy() for key, one in load_file(path).items()}
    digests = peer[f"{name}/{method}/digests"].tolist()
    ours = merged_kinds.digests(found).tolist()
    assert [line.rpartition(" ")[0] for line in ours] == [line.rpartition(" ")[0] for line in digests]
    if method == "linear":  # a mean in float64 has one rounding; anything else may have another last bit
        assert ours == digests
    sketches, expected = merged_kinds.sketches(found), peer[f"{name}/{method}/sketches"]
    lengths = expected[:, :1]
    np.testing.assert_allclose(sketches / lengths, expected / lengths, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_beside_the_weights_the_folder_is_the_one_that_the_peer_opened(name, tmp_path):
    folders, out = merged(tmp_path, name, "linear")
    before, after = (
        {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        for folder in (folders[0], out)
    )
    assert set(after) == set(before) | WRITTEN
    for relative, path in before.items():
        if path.suffix not in (".safetensors", ".pt"):
            assert path.read_bytes() == after[relative].read_bytes(), relative


def test_every_recorded_merge_is_compared(peer):
    assert {tuple(key.split("/")[:2]) for key in peer} == set(CASES)
