"""The packaged MiniLM with Tercet's heads: one folder, the same outputs here and in both peers."""

import numpy as np
import pytest
import torch

import tercet
from recorder.record_tri_vector import DIMENSIONS, PAIRS, WEIGHTS
from tercet.checkpoint.packaged import compose
from tercet.embeddings import MultiVectors, SparseVectors
from tercet.scoring import score_pairs

OUTPUTS = ("dense", "sparse", "multivector")
TEXTS = [text for pair in PAIRS for text in pair]


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("tri_vector")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = compose("tercet-minilm", tmp_path_factory.mktemp("composed") / "model")
    return tercet.load(folder, precision="float32", device="cpu")


def offsets(lengths):
    return torch.tensor([0, *lengths]).cumsum(0)


def by_id(token_ids, weights, entries):
    """The entries of each text in ascending order of their ids, as SparseVectors has them."""
    order = np.lexsort((token_ids, np.repeat(np.arange(len(entries)), entries)))
    return torch.from_numpy(token_ids[order]), torch.from_numpy(weights[order]), offsets(entries.tolist())


def test_all_three_outputs_are_those_of_flagembedding(peer, model):
    found = model.encode(TEXTS, outputs=OUTPUTS)
    np.testing.assert_allclose(found.numpy().dense, peer["dense"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.numpy().dense, peer["sentence_transformers"], rtol=0, atol=1e-5)

    entries = by_id(peer["token_ids"], peer["weights"], peer["entries"])
    theirs = SparseVectors(*entries, found.sparse.vocabulary)
    assert len(theirs.token_ids) > 20
    # A weight is a sum over hidden states that are larger than it.
    assert found.sparse.allclose(theirs, atol=5e-5)

    vectors = MultiVectors(torch.from_numpy(peer["vectors"]), offsets(peer["rows"].tolist()))
    assert vectors.dim == DIMENSIONS
    assert found.multivector.lengths.tolist() == vectors.lengths.tolist()
    np.testing.assert_allclose(found.multivector.vectors, vectors.vectors, rtol=0, atol=2e-5)


def test_scores_of_pairs_are_those_of_flagembedding(peer, model):
    queries, documents = (model.encode([pair[side] for pair in PAIRS], outputs=OUTPUTS) for side in (0, 1))
    found = score_pairs(queries, documents, weights=WEIGHTS).to_dict()
    assert tuple(found) == ("colbert", "sparse", "dense", "sparse+dense", "colbert+sparse+dense")
    for name, values in found.items():
        np.testing.assert_allclose(values, peer[f"scores/{name}"], rtol=1e-4, atol=1e-4)


def test_both_sparse_paths_of_flagembedding_agree_since_the_tokenizer_names_its_ends(peer):
    # encode drops the ids of cls_token and eos_token, compute_score those that a tokenizer of XLM-R has: only
    # where [CLS] and [SEP] are bos and eos too are these the same.
    cuts = np.cumsum(peer["entries"])[:-1]
    entries = zip(np.split(peer["token_ids"], cuts), np.split(peer["weights"], cuts), strict=True)
    sides = [dict(zip(*each, strict=True)) for each in entries]
    assert not {0, 100, 101, 102} & {key for side in sides for key in side}
    dicts = [
        sum(query.get(key, 0.0) * value for key, value in document.items())
        for query, document in zip(sides[::2], sides[1::2], strict=True)
    ]
    assert max(dicts) > 0
    np.testing.assert_allclose(dicts, peer["scores/sparse"], rtol=1e-4, atol=1e-4)
