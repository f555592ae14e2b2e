import numpy as np
import pytest

import tercet
from recorder import cases, sparse_cases


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("sparse_encoder")


def load(folder, name):
    asked = {"pooling": "splade"} if sparse_cases.CASES[name].write.get("plain") else {}
    return tercet.load(folder, precision="float32", device="cpu", **asked)


def rows(ids, weights, entries, vocabulary):
    """(texts, vocabulary) with the weights in their places."""
    made = np.zeros((len(entries), vocabulary), dtype=np.float64)
    made[np.repeat(np.arange(len(entries)), entries), ids] = weights
    return made


@pytest.mark.parametrize("name", sparse_cases.CASES)
def test_a_sparse_model_embeds_as_in_sentence_transformers(name, peer, tmp_path):
    model = load(sparse_cases.write(tmp_path, name), name)
    found = model.encode(cases.TEXTS, **sparse_cases.CASES[name].encode)
    assert model.outputs == found.outputs == ("sparse",)
    ours = found.sparse
    theirs = {key: peer[f"{name}/{key}"] for key in ("token_ids", "weights", "entries", "vocabulary")}
    assert ours.vocabulary == theirs["vocabulary"]
    expected = rows(theirs["token_ids"], theirs["weights"], theirs["entries"], ours.vocabulary)
    made = rows(ours.token_ids, ours.weights, ours.lengths, ours.vocabulary)
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)
    # The same words but for those whose weight is rounding itself.
    assert not ((made != 0) ^ (expected != 0))[np.maximum(made, expected) > 1e-5].any()
    assert (expected > 0.01).sum() >= 3 * len(cases.TEXTS)


def test_every_recorded_sparse_model_is_compared(peer):
    assert {key.rsplit("/", 1)[0] for key in peer} == set(sparse_cases.CASES)


@pytest.mark.parametrize("name", ["splade of bert", "splade of xlm-roberta"])
def test_a_sparse_models_scores_are_the_peers_dot_products(name, peer, tmp_path):
    model = load(sparse_cases.write(tmp_path, name), name)
    theirs = rows(*(peer[f"{name}/{key}"] for key in ("token_ids", "weights", "entries", "vocabulary")))
    scores = model.score(cases.TEXTS, cases.TEXTS).sparse
    np.testing.assert_allclose(scores, theirs @ theirs.T, rtol=1e-5, atol=1e-5)
