"""The four measures between vectors, against float64 written out, for any shapes and scales."""

from enum import Enum

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.compat.similarities import PAIRWISE, SIMILARITIES, similarity_name
from tercet.errors import InputError, UnknownNameError

# name -> one pair of float64 vectors -> its score
EXACT = {
    "cosine": lambda a, b: a @ b / max(np.linalg.norm(a), 1e-12) / max(np.linalg.norm(b), 1e-12),
    "dot": lambda a, b: a @ b,
    "euclidean": lambda a, b: -np.linalg.norm(a - b),
    "manhattan": lambda a, b: -np.abs(a - b).sum(),
}


@pytest.mark.parametrize("name", EXACT)
@given(
    left=st.integers(1, 5),
    right=st.integers(1, 30),
    dim=st.integers(1, 40),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    offset=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_pair_has_the_score_of_the_definition(name, left, right, dim, scale, offset, seed):
    random = np.random.default_rng(seed)
    first = ((random.standard_normal((left, dim)) + offset) * scale).astype(np.float32)
    second = ((random.standard_normal((right, dim)) + offset) * scale).astype(np.float32)
    found = SIMILARITIES[name](first, second)
    assert found.dtype == torch.float32
    exact = np.array([[EXACT[name](a, b) for b in second.astype(float)] for a in first.astype(float)])
    # Rounding is judged at the size of what is added up.
    lengths = (
        np.linalg.norm(first.astype(float), axis=1)[:, None],
        np.linalg.norm(second.astype(float), axis=1),
    )
    size = {"cosine": 1.0, "dot": lengths[0] * lengths[1]}.get(name, (lengths[0] + lengths[1]) * dim**0.5)
    assert (np.abs(found.numpy() - exact) <= 1e-5 * size + 1e-12).all()
    count = min(left, right)
    pairs = PAIRWISE[name](first[:count], second[:count])
    assert (
        np.abs(pairs.numpy() - np.diagonal(exact)) <= np.diagonal(1e-5 * size + np.zeros_like(exact)) + 1e-12
    ).all()


def test_float64_stays_and_integers_and_halves_become_float32():
    codes = np.array([[127, -128], [100, 100]], dtype=np.int8)
    assert SIMILARITIES["dot"](codes, codes).tolist() == [[127.0**2 + 128**2, -100.0], [-100.0, 20000.0]]
    assert SIMILARITIES["dot"](codes.astype(np.float64), codes).dtype == torch.float64
    assert (
        SIMILARITIES["euclidean"](torch.ones(2, 3).half(), torch.ones(2, 3).bfloat16()).dtype == torch.float32
    )


def test_a_vector_of_nought_is_like_nothing():
    assert SIMILARITIES["cosine"](np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)).tolist() == [
        [0.0]
    ]


def test_one_vector_is_paired_with_all():
    found = PAIRWISE["dot"](np.ones(3, np.float32), np.eye(3, dtype=np.float32))
    assert found.tolist() == [1.0, 1.0, 1.0]
    assert PAIRWISE["dot"]([1.0, 2.0], [3.0, 4.0]).item() == 11.0


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([], np.ones((1, 2)), "the list is empty"),
        ([np.ones(2), np.ones(3)], np.ones((1, 2)), "different widths"),
        (np.ones((1, 2)), np.ones((1, 3)), "2 and 3 dimensions"),
        (np.ones((1, 2, 2)), np.ones((1, 2)), r"not \(1, 2, 2\)"),
        (torch.ones(2, 2).to_sparse(), np.ones((1, 2)), "dense and real"),
        (np.ones((1, 2)), "a text", r"no numbers \(str\)\. Pass what encode"),
        (np.ones((1, 2)), ["a text"], r"no numbers \(list\)"),
        (np.ones((1, 2)), None, r"no numbers \(NoneType\)"),
        (np.array(["a", "b"]), np.ones((1, 2)), r"no numbers \(ndarray\)"),
    ],
)
def test_what_cannot_be_compared_is_an_error_that_says_why(first, second, message):
    with pytest.raises(InputError, match=message):
        SIMILARITIES["cosine"](first, second)


def test_a_measure_may_be_named_by_the_other_librarys_enumeration():
    class SimilarityFunction(Enum):
        DOT = "dot"
        MAXSIM = "maxsim"

    assert similarity_name(SimilarityFunction.DOT) == "dot"
    assert similarity_name(None) is None
    with pytest.raises(UnknownNameError, match=r"tercet\.scoring\.maxsim"):
        similarity_name(SimilarityFunction.MAXSIM)
