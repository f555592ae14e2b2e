import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tercet.errors import InputError
from tercet.quantization import STORED_PRECISIONS, Quantizer
from tercet.scoring import best, dense_scores, search_stored, stored, stored_scores


def unit(rows, dim, seed=0):
    vectors = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@given(data=st.data(), k=st.integers(1, 12))
def test_the_best_are_those_of_a_stable_sort(dtype, data, k):
    values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.5, -2.5, np.inf, -np.inf, 6e-8, -6e-8])
    scores = data.draw(arrays(dtype, (3, 9), elements=values.map(dtype)))
    found, places = best(torch.from_numpy(scores), k)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert np.array_equal(places.numpy(), expected)
    assert np.array_equal(found.numpy(), np.take_along_axis(scores, expected, axis=1))


@pytest.mark.parametrize("precision", STORED_PRECISIONS)
def test_scores_of_stored_vectors_are_the_dot_products_of_what_they_stand_for(precision):
    documents, queries = unit(50, 20), unit(6, 20, seed=1)
    quantizer = Quantizer.fit(documents, precision)
    codes = quantizer.encode(documents).codes
    decoded = quantizer.decode(codes)
    torch.testing.assert_close(stored_scores(queries, codes, quantizer), dense_scores(queries, decoded))
    coarse = quantizer.decode(quantizer.encode(queries).codes)
    torch.testing.assert_close(
        stored_scores(queries, codes, quantizer, quantize_queries=True), dense_scores(coarse, decoded)
    )


@pytest.mark.parametrize("dim", [8, 13, 100])
def test_bits_score_by_their_hamming_distance_exactly(dim):
    documents, queries = unit(40, dim), unit(5, dim, seed=1)
    quantizer = Quantizer.fit(documents, "ubinary")
    codes = quantizer.encode(documents).codes
    theirs = quantizer.encode(queries).codes
    differ = np.bitwise_xor(theirs.numpy()[:, None], codes.numpy()[None])
    hamming = torch.from_numpy(np.unpackbits(differ, axis=2).sum(axis=2).astype(np.float32))
    found = stored_scores(queries, codes, quantizer, quantize_queries=True)
    assert torch.equal(found, (dim - 2 * hamming) / dim)


@pytest.mark.parametrize("precision", STORED_PRECISIONS)
@pytest.mark.parametrize("multiplier", [None, 1, 3, 1000])
def test_a_search_in_blocks_finds_what_one_over_everything_finds(precision, multiplier, monkeypatch):
    documents, queries = unit(300, 24), unit(11, 24, seed=1)
    quantizer = Quantizer.fit(documents, precision)
    codes = quantizer.encode(documents).codes
    scores, places = search_stored(queries, codes, quantizer, 7, rescore_multiplier=multiplier)
    coarse = stored_scores(queries, codes, quantizer, quantize_queries=True)
    candidates = best(coarse, 7 * (multiplier or 1))[1].sort(dim=1).values
    if multiplier is None:
        expected, order = best(coarse, 7)
    else:
        fine = stored_scores(queries, codes, quantizer).gather(1, candidates)
        expected, order = best(fine, 7)
        order = candidates.gather(1, order)
    assert torch.equal(places, order)
    torch.testing.assert_close(scores, expected)

    monkeypatch.setattr(stored, "BLOCK", 24 * 40)
    monkeypatch.setattr(stored, "_QUERY_ROWS", 4)
    again = search_stored(queries, codes, quantizer, 7, rescore_multiplier=multiplier)
    assert torch.equal(again[1], places)
    torch.testing.assert_close(again[0], scores)


def test_rescoring_finds_more_of_the_true_neighbours_than_bits_alone():
    documents, queries = unit(2000, 64), unit(40, 64, seed=1)
    quantizer = Quantizer.fit(documents, "ubinary")
    codes = quantizer.encode(documents).codes
    true = best(dense_scores(queries, documents), 10)[1]

    def recall(multiplier):
        found = search_stored(queries, codes, quantizer, 10, rescore_multiplier=multiplier)[1]
        return (
            np.mean([len(set(a) & set(b)) for a, b in zip(true.tolist(), found.tolist(), strict=True)]) / 10
        )

    assert recall(None) < recall(4) <= 1.0


def test_of_documents_that_rescore_equally_the_first_comes_first():
    documents = torch.tensor([[0.5, -1.0], [0.5, 1.0], [-1.0, 0.0]])
    quantizer = Quantizer.fit(documents, "int8")
    codes = quantizer.encode(documents).codes
    query = torch.tensor([[1.0, 0.0]])
    # The centre of the bin that 0 lies in is above 0, so that the quantised query prefers the second one.
    assert search_stored(query, codes, quantizer, 2, rescore_multiplier=None)[1].tolist() == [[1, 0]]
    assert search_stored(query, codes, quantizer, 2, rescore_multiplier=1)[1].tolist() == [[0, 1]]


def test_there_may_be_fewer_documents_than_asked_for_and_no_queries():
    documents = unit(3, 8)
    quantizer = Quantizer.fit(documents, "float16")
    codes = quantizer.encode(documents).codes
    scores, places = search_stored(documents, codes, quantizer, 10)
    assert places.shape == scores.shape == (3, 3)
    assert places[:, 0].tolist() == [0, 1, 2]
    assert search_stored(documents[:0], codes, quantizer, 2)[1].shape == (0, 2)


def test_k_and_multiplier_must_be_positive():
    quantizer = Quantizer.fit(unit(3, 8), "float32")
    codes = quantizer.encode(unit(3, 8)).codes
    for k, multiplier in ((0, 2), (3, 0)):
        with pytest.raises(InputError, match="rescore_multiplier=None turns rescoring off"):
            search_stored(unit(1, 8), codes, quantizer, k, rescore_multiplier=multiplier)
