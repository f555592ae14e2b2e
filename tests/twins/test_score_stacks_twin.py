"""CrossEncoders of Transformer, Pooling and Dense against sentence-transformers."""

import json

import numpy as np
import pytest

import tercet
from recorder import score_stacks
from tercet.checkpoint.reranker_files import is_reranker, open_reranker
from tercet.errors import CheckpointError

# Largest distance of a score to float32's, in scores whose standard deviation is about 0.4.
DRIFT = {"float16": 1e-2, "bfloat16": 8e-2}


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("score_stacks")


def scored(folder, precision="float32"):
    model = tercet.load_reranker(folder, precision=precision, device="cpu")
    return model.score(score_stacks.PAIRS).numpy()


@pytest.mark.parametrize("name", score_stacks.CASES)
def test_a_stack_of_scores_scores_as_in_sentence_transformers(name, peer, tmp_path):
    folder = score_stacks.write(tmp_path / "model", name)
    assert is_reranker(folder)
    found = scored(folder)
    assert found.shape == peer[name].shape
    np.testing.assert_allclose(found, peer[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_scores_of_a_half_precise_body_stay_within_their_drift(precision, stored, tmp_path):
    folder = score_stacks.write(tmp_path / "model", "first token, identity", dtype=stored)
    exact, found = scored(folder), scored(folder, precision)
    assert found.dtype == np.float32
    assert np.abs(found - exact).max() <= DRIFT[precision]


def test_every_recorded_stack_of_scores_is_compared(peer):
    assert set(peer) == set(score_stacks.CASES)


@pytest.mark.parametrize(
    ("place", "changes", "says"),
    [
        ("2_Dense/config.json", {"module_output_name": "logits"}, "'module_output_name' is not"),
        ("2_Dense/config.json", {"module_output_name": None}, r"Transformer, Pooling, Dense;.*'scores'"),
        (
            "1_Pooling/config.json",
            {"include_prompt": False},
            "1_Pooling is a Pooling that leaves prompts out",
        ),
        ("2_Dense/config.json", {"in_features": 16}, "16"),
    ],
)
def test_a_stack_that_makes_no_scores_is_refused_with_its_place(tmp_path, place, changes, says):
    path = score_stacks.write(tmp_path, "pooling and dense") / place
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=says):
        open_reranker(tmp_path)


def test_a_logit_score_among_other_modules_is_named(tmp_path):
    path = score_stacks.write(tmp_path, "pooling and dense") / "modules.json"
    entries = json.loads(path.read_text())
    entries[1]["type"] = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"
    path.write_text(json.dumps(entries))
    with pytest.raises(
        CheckpointError, match=r"has the modules Transformer, LogitScore, Dense.*CrossEncoder"
    ):
        open_reranker(tmp_path)
