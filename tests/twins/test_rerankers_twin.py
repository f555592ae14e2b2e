"""Scores of pairs against sentence-transformers' CrossEncoder and FlagEmbedding's FlagReranker."""

import numpy as np
import pytest
import torch

import tercet
from recorder import rerankers

# What half precision may cost in a logit of these tiny random models, relative to the largest.
DRIFT = {"float16": 5e-3, "bfloat16": 4e-2}
STORED = (
    "bert",
    "bert stored in float16",
    "xlm-roberta",
    "xlm-roberta stored in float16",
    "xlm-roberta stored in bfloat16",
    "xlm-roberta, head in bfloat16",
)
SINGLE = [name for name, case in rerankers.CROSS_ENCODERS.items() if case.write.get("labels", 1) == 1]


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("rerankers")


def load(folder, name, precision="float32"):
    return tercet.load_reranker(rerankers.write(folder, name), precision=precision, device="cpu")


def asked(name, length, **more):
    options = dict(rerankers.CROSS_ENCODERS[name].predict)
    if options.pop("apply_softmax", False):
        options["activation"] = "Softmax"
    return {**options, **({} if length is None else {"max_length": length}), **more}


@pytest.mark.parametrize("name", rerankers.CROSS_ENCODERS)
def test_pairs_score_as_by_predict_of_a_cross_encoder(name, peer, tmp_path):
    model = load(tmp_path, name)
    for length in rerankers.LENGTHS:
        for ending, more in (("", {}), ("/logits", {"activation": "Identity"})):
            expected = peer[f"{name}/{length}{ending}"]
            found = model.score(rerankers.PAIRS, **asked(name, length, **more))
            assert found.dtype == torch.float32
            assert found.shape == expected.shape
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-5)
    # Lengths matter, or the rules of truncation were not compared.
    assert not np.allclose(peer[f"{name}/24"], peer[f"{name}/25"], atol=1e-4)


@pytest.mark.parametrize("name", SINGLE)
def test_documents_rank_as_by_rank_of_a_cross_encoder(name, peer, tmp_path):
    query, documents = rerankers.RANKED
    found = load(tmp_path, name).rank(query, documents, top_k=3)
    expected = peer[f"{name}/rank"]
    assert [one.index for one in found] == expected[:, 0].astype(int).tolist()
    np.testing.assert_allclose([one.score for one in found], expected[:, 1], rtol=1e-6, atol=1e-5)
    assert [one.document for one in found] == [documents[one.index] for one in found]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", rerankers.FLAG)
def test_pairs_score_as_by_compute_score_of_a_flag_reranker(name, normalize, peer, tmp_path):
    model = load(tmp_path, name)
    for length in (64, 25):
        found = model.score(
            rerankers.FILLED,
            max_length=length,
            truncation="only_second",
            activation="Sigmoid" if normalize else "Identity",
        )
        expected = peer[f"{name}/{length}/{normalize}"]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("precision", DRIFT)
@pytest.mark.parametrize("name", STORED)
def test_half_precision_stays_within_its_stated_drift_whatever_is_stored(name, precision, peer, tmp_path):
    model = load(tmp_path, name, precision)
    assert str(model.plan.precision.heads) == "float32"
    expected = peer[f"{name}/None/logits"]
    found = model.score(rerankers.PAIRS, activation="Identity").numpy()
    drift = np.abs(found - expected).max() / np.abs(expected).max()
    assert 0 < drift <= DRIFT[precision]
