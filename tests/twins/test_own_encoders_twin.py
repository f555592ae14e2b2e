"""Routes with encoders of their own, and SparseStaticEmbedding, against sentence-transformers' vectors."""

import numpy as np
import pytest

import tercet
from recorder import own_encoders
from tercet.compat import SentenceTransformer, SparseEncoder


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("own_encoders")


def expected(peer, key, width):
    """(texts, width) of what was recorded, sparse or not."""
    if key in peer and peer[key].dtype.kind == "U":  # the task that gives the same
        key = f"{key.rpartition('/')[0]}/{peer[key]}"
    if key in peer:
        return peer[key]
    entries = peer[f"{key}/entries"]
    made = np.zeros((len(entries), width))
    made[np.repeat(np.arange(len(entries)), entries), peer[f"{key}/token_ids"]] = peer[f"{key}/weights"]
    return made


def rows(found):
    """(texts, width) of embeddings, sparse or not."""
    if found.sparse is None:
        return found.dense.numpy()
    made = np.zeros((len(found), found.sparse.vocabulary))
    made[found.sparse.rows, found.sparse.token_ids.long()] = found.sparse.weights
    return made


@pytest.mark.parametrize("name", own_encoders.CASES)
def test_each_route_embeds_by_its_own_encoder_as_in_sentence_transformers(name, peer, tmp_path):
    case, texts = own_encoders.CASES[name], own_encoders.TEXTS
    model = tercet.load(own_encoders.write(tmp_path, name), precision="float32", device="cpu")
    by_task = {None: model.encode, "query": model.encode_query, "document": model.encode_document}
    for task in own_encoders.tasks(name):
        found = rows(by_task[task](texts, **case.encode))
        theirs = expected(peer, f"{name}/{task}", found.shape[1])
        np.testing.assert_allclose(found, theirs, rtol=1e-5, atol=1e-5)
        assert (np.abs(theirs).max(axis=1) > 0.01).sum() >= 5
    if case.routes:
        query, document = (expected(peer, f"{name}/{task}", found.shape[1]) for task in by_task if task)
        assert np.abs(query - document).max() > 0.1


@pytest.mark.parametrize("name", own_encoders.CASES)
def test_the_drop_in_classes_take_the_routes_of_their_tasks(name, peer, tmp_path):
    case, texts = own_encoders.CASES[name], list(own_encoders.TEXTS)
    kind = SparseEncoder if case.sparse else SentenceTransformer
    options = {"convert_to_sparse_tensor": False} if case.sparse else {}
    model = kind(str(own_encoders.write(tmp_path, name)), device="cpu", model_kwargs={"dtype": "float32"})
    by_task = {None: model.encode, "query": model.encode_query, "document": model.encode_document}
    for task in own_encoders.tasks(name):
        found = np.asarray(by_task[task](texts, **options, **case.encode))
        theirs = expected(peer, f"{name}/{task}", found.shape[1])
        np.testing.assert_allclose(found, theirs, rtol=1e-5, atol=1e-5)


def test_every_recorded_model_with_encoders_of_its_own_is_compared(peer):
    compared = {f"{name}/{task}" for name in own_encoders.CASES for task in own_encoders.tasks(name)}
    assert {"/".join(key.split("/")[:2]) for key in peer} == compared
