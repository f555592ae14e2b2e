"""Merged decoders are tried out as what they are: models of vectors, rerankers, or language models alone."""

import pytest

import tiny_decoders
from tercet.errors import CheckpointError
from tercet.workflows.merged_model import try_model

YARN = {"rope_scaling": {"type": "yarn", "factor": 4.0}}


def test_models_of_vectors_and_rerankers_are_loaded(tmp_path):
    vectors = tiny_decoders.write_embedder(tmp_path / "vectors")
    assert try_model(vectors, "", named="it").startswith("Loaded")
    scores = tiny_decoders.write_reranker(tmp_path / "scores")
    assert try_model(scores, "", named="it").startswith("Loaded as a reranker")


def test_what_cannot_be_loaded_as_such_is_no_result(tmp_path):
    vectors = tiny_decoders.write_embedder(tmp_path, config=YARN)
    with pytest.raises(CheckpointError, match=r"cannot be loaded: .*yarn"):
        try_model(vectors, "", named="it")


def test_a_language_model_alone_is_left_to_transformers_whatever_its_settings(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # where they are not
    alone = tiny_decoders.write_decoder(tmp_path, prefix="model.", lm_head=True, tied=False, config=YARN)
    assert "'qwen3' are run by transformers" in try_model(alone, "", named="it")
