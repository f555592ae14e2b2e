"""Rerankers made of language models (LogitScore) against sentence-transformers."""

import numpy as np
import pytest
import torch

import tercet
from recorder import logit_cases
from tercet.checkpoint.reranker_files import is_reranker
from tercet.compat import CrossEncoder

PAIRS = list(logit_cases.PAIRS)
# Largest distance of a difference of logits to float32's, of differences that spread by about 3.
DRIFT = {"float16": 3e-2, "bfloat16": 3e-1}


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("logits")


@pytest.mark.parametrize("name", logit_cases.CASES)
def test_a_language_model_scores_as_in_sentence_transformers(name, peer, tmp_path):
    folder = logit_cases.write(tmp_path, name)
    assert is_reranker(folder)
    model = tercet.load_reranker(folder, precision="float32", device="cpu")
    found = model.score(PAIRS, **logit_cases.CASES[name].predict)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), peer[name], rtol=1e-5, atol=1e-5)
    assert name == "cut shorter than the template's end" or np.ptp(peer[name]) > 0.01


@pytest.mark.parametrize("name", ["as Qwen3-Reranker", "a prompt of the system"])
def test_the_drop_in_class_takes_a_language_model(name, peer, tmp_path):
    folder = logit_cases.write(tmp_path, name)
    model = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
    np.testing.assert_allclose(model.predict(PAIRS), peer[name], rtol=1e-5, atol=1e-5)
    best = model.rank("the moon", [document for _, document in PAIRS], top_k=2)
    assert len(best) == 2


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("asked", ["float16", "bfloat16"])
def test_scores_of_a_language_model_in_half_precision_stay_within_their_drift(asked, stored, tmp_path):
    folder = logit_cases.write(tmp_path, "as Qwen3-Reranker", dtype=stored)
    exact, found = (
        tercet.load_reranker(folder, precision=precision, device="cpu").score(PAIRS, activation="Identity")
        for precision in ("float32", asked)
    )
    assert found.dtype == torch.float32
    assert 0 < float((found - exact).abs().max()) <= DRIFT[asked]
    assert float(exact.std()) > 0.3


def test_every_recorded_language_model_is_compared(peer):
    assert set(peer) == set(logit_cases.CASES)
