import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet import scoring
from tercet.embeddings import Embeddings, MultiVectors, SparseVectors
from tercet.errors import InputError

VOCABULARY = 30


def sparse_of(*texts, vocabulary=VOCABULARY, dtype=torch.float32):
    """SparseVectors of {token id: weight} dictionaries."""
    entries = [sorted(text.items()) for text in texts]
    return SparseVectors(
        torch.tensor([token for text in entries for token, _ in text], dtype=torch.int64),
        torch.tensor([weight for text in entries for _, weight in text], dtype=dtype),
        torch.tensor([0, *(len(text) for text in entries)]).cumsum(0),
        vocabulary,
    )


def multivectors_of(*texts, dim=2, dtype=torch.float32):
    """MultiVectors of lists of rows."""
    rows = [row for text in texts for row in text]
    vectors = torch.tensor(rows, dtype=dtype) if rows else torch.zeros(0, dim, dtype=dtype)
    return MultiVectors(vectors, torch.tensor([0, *(len(text) for text in texts)]).cumsum(0))


weight = st.floats(0.015625, 4.0, width=16)
sparse_texts = st.lists(st.dictionaries(st.integers(0, VOCABULARY - 1), weight, max_size=6), max_size=5)
vector = st.lists(st.floats(-2.0, 2.0, width=16), min_size=3, max_size=3)
vector_texts = st.lists(st.lists(vector, max_size=4), max_size=5)


# --- dense ----------------------------------------------------------------------------------------


def test_dense_scores_are_dot_products():
    queries, documents = torch.randn(3, 8), torch.randn(5, 8)
    assert torch.allclose(scoring.dense_scores(queries, documents), queries @ documents.T)
    assert torch.allclose(scoring.dense_pairs(queries, documents[:3]), (queries * documents[:3]).sum(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_added_up_in_float32(dtype):
    ones = torch.ones(1, 4096, dtype=dtype)
    small = torch.full((2, 4096), 1.0009765625 if dtype == torch.float16 else 1.0078125, dtype=dtype)
    expected = 4096 * float(small[0, 0])
    scores = scoring.dense_scores(ones, small)
    assert scores.dtype == torch.float32
    assert scores.tolist() == [[expected, expected]]
    assert scoring.dense_pairs(ones, small[:1]).tolist() == [expected]


def test_float64_stays_float64():
    assert scoring.dense_scores(torch.ones(1, 2).double(), torch.ones(1, 2)).dtype == torch.float64
    assert (
        scoring.sparse_scores(sparse_of({1: 1.0}, dtype=torch.float64), sparse_of({1: 1.0})).dtype
        == torch.float64
    )
    many = multivectors_of([[1.0, 0.0]], dtype=torch.float64)
    assert scoring.maxsim_scores(many, many).dtype == torch.float64
    assert scoring.maxsim_pairs(many[:0], many[:0]).dtype == torch.float64


def test_half_precision_documents_are_widened_block_by_block(monkeypatch):
    monkeypatch.setattr("tercet.scoring.dense.BLOCK", 16)
    queries, documents = torch.randn(3, 8), torch.randn(7, 8).to(torch.bfloat16)
    assert torch.allclose(scoring.dense_scores(queries, documents), queries @ documents.float().T)


def test_dense_widths_that_differ_are_named():
    with pytest.raises(InputError, match=r"\(2, 3\) and \(2, 4\)"):
        scoring.dense_scores(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(InputError, match="as many queries as documents, not 2 and 3"):
        scoring.dense_pairs(torch.zeros(2, 3), torch.zeros(3, 3))


# --- sparse ---------------------------------------------------------------------------------------


@given(sparse_texts, sparse_texts)
def test_sparse_scores_are_the_sums_over_shared_tokens(queries, documents):
    expected = torch.tensor(
        [[sum(w * d.get(t, 0.0) for t, w in q.items()) for d in documents] for q in queries],
        dtype=torch.float32,
    ).reshape(len(queries), len(documents))
    scores = scoring.sparse_scores(sparse_of(*queries), sparse_of(*documents))
    assert torch.allclose(scores, expected, atol=1e-5)
    pairs = min(len(queries), len(documents))
    found = scoring.sparse_pairs(sparse_of(*queries[:pairs]), sparse_of(*documents[:pairs]))
    assert torch.allclose(found, expected.diagonal()[:pairs], atol=1e-5)


def test_sparse_scores_are_the_same_in_blocks_of_queries(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    texts = [
        {
            int(t): float(w)
            for t, w in zip(torch.randperm(30, generator=generator)[:9], torch.rand(9), strict=True)
        }
        for _ in range(12)
    ]
    whole = scoring.sparse_scores(sparse_of(*texts), sparse_of(*texts))
    monkeypatch.setattr("tercet.scoring.sparse._QUERY_ENTRIES", 20)
    assert torch.allclose(scoring.sparse_scores(sparse_of(*texts), sparse_of(*texts)), whole)


def test_sparse_scores_make_no_row_as_wide_as_the_vocabulary():
    # one row of this vocabulary would be 4 TB
    vocabulary = 10**12
    texts = sparse_of({5: 1.0, 10**12 - 1: 2.0}, {7: 1.0}, vocabulary=vocabulary)
    assert scoring.sparse_scores(texts, texts).tolist() == [[5.0, 0.0], [0.0, 1.0]]
    assert scoring.sparse_pairs(texts, texts).tolist() == [5.0, 1.0]


def test_sparse_vectors_of_two_models_are_not_compared():
    with pytest.raises(InputError, match="different vocabularies have no common tokens: 30 and 31"):
        scoring.sparse_scores(sparse_of({}), sparse_of({}, vocabulary=31))


def test_the_known_lexical_score_of_flagembedding():
    query, document = sparse_of({5: 0.5, 9: 0.25}), sparse_of({9: 0.4, 7: 1.0})
    assert scoring.sparse_pairs(query, document).tolist() == pytest.approx([0.1])
    assert scoring.sparse_scores(query, document).tolist() == [pytest.approx([0.1])]
    assert scoring.sparse_pairs(query, sparse_of({1: 3.0})).tolist() == [0.0]


def test_lexical_weights_of_half_precision_are_added_up_in_float32():
    # in float16 the running sum of 4096 products of 1 would stop at 2048
    texts = sparse_of({t: 1.0 for t in range(4096)}, vocabulary=4096, dtype=torch.float16)
    assert scoring.sparse_scores(texts, texts).tolist() == [[4096.0]]
    assert scoring.sparse_pairs(texts, texts).tolist() == [4096.0]


# --- late interaction -----------------------------------------------------------------------------


def maxsim_by_hand(query, document, reduction):
    if not query or not document:
        return 0.0
    best = [max(float(np.dot(q, d)) for d in document) for q in query]
    return sum(best) / (len(best) if reduction == "mean" else 1)


@given(vector_texts, vector_texts, st.sampled_from(["mean", "sum"]))
def test_late_interaction_is_the_best_match_of_each_query_row(queries, documents, reduction):
    expected = torch.tensor([[maxsim_by_hand(q, d, reduction) for d in documents] for q in queries]).float()
    expected = expected.reshape(len(queries), len(documents))
    left, right = multivectors_of(*queries, dim=3), multivectors_of(*documents, dim=3)
    assert torch.allclose(scoring.maxsim_scores(left, right, reduction=reduction), expected, atol=1e-4)
    for query, row in zip(left, expected, strict=True):
        assert torch.allclose(scoring.maxsim(query.vectors, right, reduction=reduction), row, atol=1e-4)
    pairs = min(len(queries), len(documents))
    found = scoring.maxsim_pairs(left[:pairs], right[:pairs], reduction=reduction)
    assert torch.allclose(found, expected.diagonal()[:pairs], atol=1e-4)


def test_no_padding_row_floors_a_maximum():
    query = torch.tensor([[1.0, 0.0]])
    documents = multivectors_of([[-0.5, 0.1]], [[0.2, 0.0], [0.1, 0.0], [0.0, 0.0]])
    assert scoring.maxsim(query, documents).tolist() == pytest.approx([-0.5, 0.2])


def test_the_known_late_interaction_score_of_flagembedding():
    query, document = [[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [1.0, 0.0]]
    assert scoring.maxsim(torch.tensor(query), multivectors_of(document)).tolist() == pytest.approx([0.9])
    assert scoring.maxsim(torch.tensor(query), multivectors_of(document), reduction="sum").tolist() == (
        pytest.approx([1.8])
    )


def test_late_interaction_is_the_same_in_small_blocks(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    texts = MultiVectors(torch.randn(40, 4, generator=generator), torch.tensor([0, 7, 7, 25, 40]))
    whole = scoring.maxsim_scores(texts, texts)
    monkeypatch.setattr("tercet.scoring.late._QUERY_ROWS", 3)
    monkeypatch.setattr("tercet.scoring.late.BLOCK", 30)
    assert torch.allclose(scoring.maxsim_scores(texts, texts), whole, atol=1e-6)


def test_late_interaction_of_half_precision_is_float32():
    vectors = multivectors_of([[1.0, 0.5]], [[0.25, 1.0]]).to(torch.bfloat16)
    scores = scoring.maxsim_scores(vectors, vectors)
    assert scores.dtype == torch.float32
    assert scores.tolist() == [[1.25, 0.75], [0.75, 1.0625]]


def test_multivectors_that_do_not_fit_are_named():
    one, other = multivectors_of([[1.0, 0.0]]), multivectors_of([[1.0, 0.0, 0.0]])
    with pytest.raises(InputError, match=r"\(tokens, 2\) and \(tokens, 3\)"):
        scoring.maxsim_scores(one, other)
    with pytest.raises(InputError, match=r"not \(3,\)"):
        scoring.maxsim(torch.zeros(3), other)
    with pytest.raises(InputError, match="'mean' or 'sum'"):
        scoring.maxsim_scores(one, one, reduction="max")


def test_scores_pass_gradients_to_the_vectors():
    dense = torch.randn(2, 4, requires_grad=True)
    vectors = torch.randn(3, 4, requires_grad=True)
    weights = torch.rand(3, requires_grad=True)
    sparse = SparseVectors(torch.tensor([1, 2, 1]), weights, torch.tensor([0, 2, 3]), 9)
    late = MultiVectors(vectors, torch.tensor([0, 2, 3]))
    total = scoring.dense_scores(dense, dense.to(torch.bfloat16)).sum()
    total = total + scoring.maxsim_scores(late, late).sum() + scoring.maxsim_pairs(late, late).sum()
    total = total + scoring.sparse_scores(sparse, sparse).sum() + scoring.sparse_pairs(sparse, sparse).sum()
    total.backward()
    for leaf in (dense, vectors, weights):
        assert leaf.grad.abs().min() > 0


# --- together -------------------------------------------------------------------------------------


def scores_of(value):
    return torch.tensor([value])


def test_the_known_weighted_sums_of_flagembedding():
    dense, sparse, late = scores_of(0.6), scores_of(0.1), scores_of(0.9)
    found = scoring.PairScores.of(dense, sparse, late, (0.4, 0.2, 0.4))
    assert found.combined.item() == pytest.approx(0.62)
    assert found.dense_sparse.item() == pytest.approx(0.26 / 0.6)
    plain = scoring.PairScores.of(dense, sparse, late)
    assert plain.combined.item() == pytest.approx(1.6 / 3)
    assert plain.dense_sparse.item() == pytest.approx(0.35)


def test_scores_have_flagembeddings_keys_in_its_order():
    found = scoring.PairScores.of(scores_of(0.5), scores_of(0.25), scores_of(0.75)).to_dict()
    assert found == {
        "colbert": [0.75],
        "sparse": [0.25],
        "dense": [0.5],
        "sparse+dense": [0.375],
        "colbert+sparse+dense": [0.5],
    }
    assert list(found) == ["colbert", "sparse", "dense", "sparse+dense", "colbert+sparse+dense"]


def test_outputs_that_are_not_there_neither_count_nor_weigh():
    assert scoring.weighted_sum(scores_of(0.5), None, scores_of(1.0), (3, 100, 1)).item() == 0.625
    assert scoring.PairScores.of(scores_of(0.5), None, scores_of(1.0)).to_dict() == {
        "colbert": [1.0],
        "dense": [0.5],
        "colbert+dense": [0.75],
    }
    assert scoring.PairScores.of(scores_of(0.5), None, None).to_dict() == {"dense": [0.5]}
    assert scoring.PairScores.of(scores_of(0.5), scores_of(1.0), None).to_dict() == {
        "sparse": [1.0],
        "dense": [0.5],
        "sparse+dense": [0.75],
    }


def test_a_weight_for_late_interaction_alone_is_late_interaction():
    found = scoring.PairScores.of(scores_of(0.5), scores_of(0.25), scores_of(0.75), (0, 0, 1))
    assert found.combined.item() == 0.75
    assert found.dense_sparse is None


@pytest.mark.parametrize(
    ("given_scores", "weights", "message"),
    [
        ((None, None, None), (1, 1, 1), "no scores to add"),
        ((torch.zeros(2), torch.zeros(3), None), (1, 1, 1), r"\(2,\) and \(3,\)"),
        ((torch.zeros(2), None, None), (0, 1, 1), "add up to 0"),
        ((torch.zeros(2), None, None), (1, 1), "2 weights were given; give three"),
    ],
)
def test_a_sum_that_means_nothing_is_refused(given_scores, weights, message):
    with pytest.raises(InputError, match=message):
        scoring.weighted_sum(*given_scores, weights)


def embeddings(texts, *, outputs=("dense", "sparse", "multivector"), seed=0):
    generator = torch.Generator().manual_seed(seed)
    flags = torch.zeros(texts, dtype=torch.bool)
    offsets = torch.arange(texts + 1) * 2
    return Embeddings(
        torch.randn(texts, 3, generator=generator) if "dense" in outputs else None,
        SparseVectors(
            torch.tensor([1, 2]).repeat(texts), torch.rand(2 * texts, generator=generator), offsets, 9
        )
        if "sparse" in outputs
        else None,
        MultiVectors(torch.randn(2 * texts, 3, generator=generator), offsets)
        if "multivector" in outputs
        else None,
        torch.full((texts,), 4),
        flags,
        flags,
    )


def test_pairs_are_the_diagonal_of_all_against_all():
    queries, documents = embeddings(4), embeddings(4, seed=1)
    pairs = scoring.score_pairs(queries, documents, weights=(1, 2, 3), reduction="sum").to_dict()
    matrix = scoring.score_matrix(queries, documents, weights=(1, 2, 3), reduction="sum").to_dict()
    assert list(pairs) == list(matrix)
    for name, scores in pairs.items():
        assert scores == pytest.approx(np.diagonal(matrix[name]).tolist(), abs=1e-5)


def test_only_outputs_that_both_sides_have_are_scored():
    found = scoring.score_matrix(embeddings(2), embeddings(3, outputs=("sparse",)))
    assert found.dense is None
    assert found.multivector is None
    assert torch.equal(found.combined, found.sparse)
    assert found.sparse.shape == (2, 3)


def test_no_output_in_common_is_an_error_that_names_both_sides():
    with pytest.raises(InputError, match="outputs dense, the documents sparse"):
        scoring.score_matrix(embeddings(1, outputs=("dense",)), embeddings(1, outputs=("sparse",)))


def test_no_pairs_have_no_scores():
    nothing = scoring.score_pairs(embeddings(0), embeddings(0)).to_dict()
    assert all(scores == [] for scores in nothing.values())
    assert len(nothing) == 5


def test_unequal_numbers_are_no_pairs():
    with pytest.raises(InputError, match="not 1 and 2"):
        scoring.score_pairs(embeddings(1), embeddings(2))


# --- ranks ----------------------------------------------------------------------------------------


def test_fusion_adds_the_reciprocal_ranks():
    fused = scoring.reciprocal_rank_fusion([["a", "b", "c"], ["b", "d"]])
    assert [name for name, _ in fused] == ["b", "a", "d", "c"]
    assert dict(fused) == pytest.approx({"a": 1 / 61, "b": 1 / 62 + 1 / 61, "c": 1 / 63, "d": 1 / 62})


def test_fusion_of_equal_scores_keeps_the_order_of_appearance():
    assert [name for name, _ in scoring.reciprocal_rank_fusion([["x", "y"], ["y", "x"]])] == ["x", "y"]
    assert [name for name, _ in scoring.reciprocal_rank_fusion([["y"], ["x"]])] == ["y", "x"]


def test_fusion_takes_weights_and_k():
    fused = dict(scoring.reciprocal_rank_fusion([[1, 2], [2, 1]], k=0, weights=(3, 1)))
    assert fused == {1: 3.5, 2: 2.5}
    assert scoring.reciprocal_rank_fusion([]) == []


@given(st.lists(st.permutations(range(6)), min_size=1, max_size=4))
def test_fusion_of_scores_is_the_fusion_of_their_rankings(rankings):
    scores = []
    for ranking in rankings:
        row = torch.zeros(6)
        row[torch.tensor(ranking)] = torch.arange(6, 0, -1).float()
        scores.append(row)
    fused = scoring.reciprocal_rank_scores(scores)
    assert dict(scoring.reciprocal_rank_fusion(rankings)) == pytest.approx(dict(enumerate(fused.tolist())))


def test_equal_scores_are_ranked_by_position_for_each_query():
    fused = scoring.reciprocal_rank_scores([torch.tensor([[1.0, 1.0, 2.0], [0.0, 0.0, 0.0]])], k=0)
    assert fused.tolist() == [
        [pytest.approx(v) for v in row] for row in ([1 / 2, 1 / 3, 1.0], [1.0, 1 / 2, 1 / 3])
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scoring.reciprocal_rank_fusion([["a", "a"]]), "Ranking 0 has an id twice"),
        (lambda: scoring.reciprocal_rank_fusion([["a"]], k=-1), "k is -1"),
        (
            lambda: scoring.reciprocal_rank_fusion([["a"]], weights=(1, 2)),
            "2 weights were given for 1 rankings",
        ),
        (lambda: scoring.reciprocal_rank_scores([]), "not none"),
        (lambda: scoring.reciprocal_rank_scores([torch.zeros(2), torch.zeros(3)]), r"not \(2,\) and \(3,\)"),
        (lambda: scoring.reciprocal_rank_scores([torch.tensor(1.0)]), r"not \(\)"),
    ],
)
def test_a_fusion_that_means_nothing_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_late_interaction_of_unit_rows_lies_between_minus_one_and_one():
    rows = torch.nn.functional.normalize(torch.randn(50, 16), dim=1)
    texts = MultiVectors(rows, torch.tensor([0, 20, 50]))
    scores = scoring.maxsim_scores(texts, texts)
    assert scores.abs().max() <= 1 + 1e-6
    assert math.isclose(float(scores[0, 0]), 1.0, abs_tol=1e-6)


def test_weights_are_finite_numbers():
    scores = torch.tensor([0.5])
    with pytest.raises(InputError, match="must be finite numbers"):
        scoring.weighted_sum(scores, None, None, (float("nan"), 1.0, 1.0))
