import numpy as np
import pytest
import torch

from recorder import cases
from tercet.embeddings import MultiVectors
from tercet.quantization import Quantizer, pool_tokens


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("stored")


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_bits_are_those_of_sentence_transformers(precision, peer):
    vectors = torch.from_numpy(cases.stored_vectors())
    codes = Quantizer.fit(vectors, precision).encode(vectors).codes.numpy()
    assert codes.dtype == peer[precision].dtype
    assert np.array_equal(codes, peer[precision])


@pytest.mark.parametrize("protected", [0, 1])
@pytest.mark.parametrize("factor", cases.POOL_FACTORS)
def test_pooled_token_vectors_are_those_of_sentence_transformers(factor, protected, peer):
    vectors = torch.from_numpy(cases.stored_vectors())
    rows = MultiVectors(vectors, torch.tensor([0, len(vectors)]))
    found = pool_tokens(rows, factor, protected=protected).vectors.numpy()
    theirs = peer[f"pooled/{factor}/{protected}"]
    assert found.shape == theirs.shape
    np.testing.assert_array_equal(found[:protected], theirs[:protected])
    # The order of the means is another one, which late interaction does not see.
    np.testing.assert_allclose(_sorted(found), _sorted(theirs), rtol=0, atol=1e-6)


def _sorted(rows):
    return rows[np.argsort(rows[:, 1])]
