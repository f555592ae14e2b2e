import json
import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.embeddings import Embeddings, MultiVectors, SparseVectors
from tercet.errors import InputError, NonFiniteError

VOCABULARY = 50
DIM = 4


def make(lengths, *, seed=0, outputs=("dense", "sparse", "multivector"), dtype=torch.float32):
    """Random embeddings of texts with so many lexical entries (and vectors) each."""
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    total = int(offsets[-1])
    ids = [torch.randperm(VOCABULARY, generator=generator)[:n].sort().values for n in lengths]
    token_ids = torch.cat([torch.zeros(0, dtype=torch.int64), *ids])
    weights = torch.rand(total, generator=generator) + 0.01
    dense = torch.randn(len(lengths), DIM, generator=generator)
    vectors = torch.randn(total, DIM, generator=generator)
    return Embeddings(
        dense=dense.to(dtype) if "dense" in outputs else None,
        sparse=SparseVectors(token_ids, weights.to(dtype), offsets, VOCABULARY)
        if "sparse" in outputs
        else None,
        multivector=MultiVectors(vectors.to(dtype), offsets) if "multivector" in outputs else None,
        num_tokens=torch.tensor(lengths, dtype=torch.int64),
        truncated=torch.tensor([n % 2 == 0 for n in lengths], dtype=torch.bool),
        recomputed=torch.zeros(len(lengths), dtype=torch.bool),
    )


lengths = st.lists(st.integers(0, 6), max_size=8)


@given(lengths, st.data())
def test_joined_slices_are_the_whole(lengths, data):
    whole = make(lengths)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(lengths)), max_size=4)))
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(lengths)], strict=True)]
    assert Embeddings.concat(parts).allclose(whole, atol=0)


@given(lengths, st.data())
def test_any_choice_of_texts_is_those_texts_one_by_one(lengths, data):
    whole = make(lengths)
    chosen = data.draw(
        st.lists(st.integers(-len(lengths), len(lengths) - 1), max_size=6) if lengths else st.just([])
    )
    expected = Embeddings.concat(
        [Embeddings.empty(dense_dim=4, vocabulary=50, multivector_dim=4)] + [whole[i] for i in chosen]
    )
    for key in (chosen, np.array(chosen, dtype=np.int64), torch.tensor(chosen, dtype=torch.int64)):
        assert whole[key].allclose(expected, atol=0)


@given(lengths, st.slices(8))
def test_a_slice_with_any_step_chooses_what_a_list_would(lengths, key):
    whole = make(lengths)
    assert whole[key].allclose(whole[list(range(len(lengths)))[key]], atol=0)


@given(lengths, st.data())
def test_a_mask_chooses_where_it_is_true(lengths, data):
    whole = make(lengths)
    mask = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    expected = whole[[i for i, keep in enumerate(mask) if keep]]
    assert whole[torch.tensor(mask, dtype=torch.bool)].allclose(expected, atol=0)
    assert whole[np.array(mask, dtype=bool)].allclose(expected, atol=0)


def test_iteration_gives_one_text_at_a_time_in_order():
    whole = make([2, 0, 3])
    texts = list(whole)
    assert [len(text) for text in texts] == [1, 1, 1]
    assert torch.equal(texts[2].dense[0], whole.dense[2])
    assert torch.equal(texts[2].multivector.vectors, whole.multivector.rows(2))


def test_a_run_of_texts_is_a_view_and_not_a_copy():
    whole = make([2, 1, 3])
    part = whole[1:]
    assert part.dense.data_ptr() == whole.dense[1:].data_ptr()
    assert part.multivector.vectors.data_ptr() == whole.multivector.vectors[2:].data_ptr()


@pytest.mark.parametrize("key", [3, -4, [0, 3], torch.tensor([-4])])
def test_a_text_that_is_not_there_is_an_index_error(key):
    with pytest.raises(IndexError, match=r"text -?\d of 3"):
        make([1, 1, 1])[key]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("dense_vecs", r"attributes: \.dense"),
        (1.5, "float chooses no texts"),
        ([0.5], "integers or booleans"),
        ([True], "1 booleans was given for 3 texts"),
        ([[0], [1]], "positions in one row"),
        (None, "NoneType chooses no texts"),
    ],
)
def test_a_key_that_chooses_no_text_is_an_error_that_says_what_does(key, message):
    with pytest.raises(InputError, match=message):
        make([1, 1, 1])[key]


def test_nothing_has_the_widths_of_something():
    nothing = Embeddings.empty(dense_dim=7, vocabulary=9, multivector_dim=3)
    assert len(nothing) == 0
    assert nothing.dense.shape == (0, 7)
    assert nothing.sparse.csr().shape == (0, 9)
    assert nothing.multivector.vectors.shape == (0, 3)
    assert nothing.outputs == ("dense", "sparse", "multivector")
    assert Embeddings.empty(dense_dim=7).outputs == ("dense",)
    assert nothing.to_qdrant() == nothing.to_milvus() == nothing.to_pgvector() == []
    assert list(nothing) == []


def test_joining_nothing_is_an_error_that_names_the_mend():
    with pytest.raises(InputError, match=r"Embeddings\.empty"):
        Embeddings.concat([])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make([1], outputs=("dense",)), "the set of outputs"),
        (make([1], dtype=torch.float16), "the dtype of the dense vectors is torch.float16 and torch.float32"),
        (
            Embeddings.empty(dense_dim=3, vocabulary=50, multivector_dim=4),
            "width of the dense vectors is 3 and 4",
        ),
        (Embeddings.empty(dense_dim=4, vocabulary=51, multivector_dim=4), "the vocabulary is 50 and 51"),
        (
            Embeddings.empty(dense_dim=4, vocabulary=50, multivector_dim=5),
            "width of the multi-vectors is 4 and 5",
        ),
    ],
)
def test_parts_that_do_not_fit_are_not_joined(other, message):
    with pytest.raises(InputError, match=message):
        Embeddings.concat([make([1]), other])


def test_numpy_keeps_every_dtype_but_bfloat16_which_becomes_float32():
    for dtype, expected in [
        (torch.float64, np.float64),
        (torch.float32, np.float32),
        (torch.float16, np.float16),
        (torch.bfloat16, np.float32),
    ]:
        arrays = make([2, 1], dtype=dtype).numpy()
        assert (
            arrays.dense.dtype == arrays.sparse.weights.dtype == arrays.multivector.vectors.dtype == expected
        )
        assert arrays.dense.shape == (2, DIM)
        assert arrays.sparse.offsets.tolist() == [0, 2, 3]
        assert arrays.truncated.dtype == np.bool_
    assert make([1], outputs=("dense",)).numpy().sparse is None


def test_numpy_shares_the_memory_of_float32():
    whole = make([2, 1])
    assert whole.numpy().dense.ctypes.data == whole.dense.data_ptr()


def test_a_change_of_dtype_changes_every_vector_and_nothing_else():
    half = make([2, 1]).to(torch.float16)
    assert half.dense.dtype == half.sparse.weights.dtype == half.multivector.vectors.dtype == torch.float16
    assert half.num_tokens.dtype == torch.int64
    assert half.allclose(make([2, 1]), atol=2e-3)
    assert make([1]).to(torch.float64).to(torch.float32).allclose(make([1]), atol=0)


def test_a_value_too_large_for_the_dtype_is_an_error_and_never_an_infinity():
    large = Embeddings.empty(dense_dim=2)
    large = Embeddings(
        torch.tensor([[1.0, 1e5]]),
        None,
        None,
        torch.tensor([3]),
        torch.tensor([False]),
        torch.tensor([False]),
    )
    with pytest.raises(NonFiniteError, match=r"100000 does not fit in torch\.float16; keep float32"):
        large.to(torch.float16)
    assert large.to(torch.bfloat16).dense.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.int8, "float16"])
def test_a_change_to_what_is_no_float_is_refused(dtype):
    with pytest.raises(InputError, match="floating-point dtype"):
        make([1]).to(dtype)


def test_close_means_the_same_texts_and_values():
    one = make([2, 1])
    assert one.allclose(make([2, 1]))
    assert not one.allclose(make([2, 1], seed=1))
    assert not one.allclose(make([2]))
    assert not one.allclose(make([2, 1], outputs=("dense",)))
    assert not one.allclose(one.to(torch.bfloat16))
    assert one.allclose(one.to(torch.bfloat16), atol=0.05)


def test_an_absent_weight_is_close_to_a_tiny_one():
    one = SparseVectors(torch.tensor([3]), torch.tensor([0.5]), torch.tensor([0, 1]), 9)
    two = SparseVectors(torch.tensor([3, 5]), torch.tensor([0.5, 1e-9]), torch.tensor([0, 2]), 9)
    assert one.allclose(two)
    assert not one.allclose(two, atol=1e-10)


def test_embeddings_survive_pickle():
    whole = make([2, 0, 3])
    assert pickle.loads(pickle.dumps(whole)).allclose(whole, atol=0)


def test_what_is_shown_is_shapes_and_not_numbers():
    assert repr(make([2, 1])) == (
        "Embeddings(2 texts, dense=(2, 4) float32, sparse=3 entries of 50, multivector=(3, 4))"
    )
    assert repr(make([2, 1]).sparse) == "SparseVectors(2 texts, 3 entries of 50 float32)"
    assert repr(make([2, 1]).multivector) == "MultiVectors(2 texts, 3 vectors of 4 float32)"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MultiVectors(torch.zeros(3), torch.tensor([0, 3])), r"\(tokens, dim\)"),
        (lambda: MultiVectors(torch.zeros(3, 2), torch.tensor([0, 2])), "from 0 to the number of rows, 3"),
        (lambda: MultiVectors(torch.zeros(3, 2), torch.tensor([0, 3, 2, 3])), "must ascend"),
        (lambda: MultiVectors(torch.zeros(3, 2), torch.tensor([0, 3]).int()), "int64"),
        (
            lambda: SparseVectors(torch.tensor([1, 2]), torch.ones(3), torch.tensor([0, 2]), 9),
            r"both be \(entries,\)",
        ),
        (
            lambda: SparseVectors(torch.tensor([1, 9]), torch.ones(2), torch.tensor([0, 2]), 9),
            "go from 1 to 9",
        ),
        (
            lambda: SparseVectors(torch.tensor([2, 1]), torch.ones(2), torch.tensor([0, 2]), 9),
            "ascend within",
        ),
        (lambda: SparseVectors(torch.tensor([2, 2]), torch.ones(2), torch.tensor([0, 2]), 9), "at most once"),
        (
            lambda: Embeddings(
                torch.zeros(2, 3),
                None,
                None,
                torch.zeros(3),
                torch.zeros(3, dtype=torch.bool),
                torch.zeros(3),
            ),
            "dense has 2 texts, num_tokens 3",
        ),
        (
            lambda: Embeddings(torch.zeros(3), None, None, torch.zeros(3), torch.zeros(3), torch.zeros(3)),
            r"dense must be \(texts, dim\)",
        ),
    ],
)
def test_parts_that_disagree_are_refused_where_they_are_put_together(build, message):
    with pytest.raises(InputError, match=message):
        build()


# --- sparse vectors -------------------------------------------------------------------------------


@given(lengths)
def test_compressed_rows_are_the_matrix_that_the_dictionaries_say(lengths):
    sparse = make(lengths, outputs=("sparse",)).sparse
    parts = sparse.csr()
    matrix = scipy.sparse.csr_array(parts[:3], shape=parts.shape).toarray()
    expected = np.zeros((len(lengths), VOCABULARY), dtype=np.float32)
    for row, weights in zip(expected, sparse.to_dicts(), strict=True):
        for token, weight in weights.items():
            row[token] = weight
    assert np.array_equal(matrix, expected)
    assert np.array_equal(sparse.to_scipy().toarray(), expected)


def test_compressed_rows_of_half_precision_are_float32():
    assert make([3], dtype=torch.float16).sparse.to_scipy().dtype == np.float32
    assert make([3], dtype=torch.bfloat16).sparse.csr().data.dtype == np.float32
    assert make([3], dtype=torch.float64).sparse.csr().data.dtype == np.float64


def test_dictionaries_hold_pythons_own_numbers():
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        weights = make([3, 0], dtype=dtype).sparse.to_dicts()
        assert json.loads(json.dumps(weights))[1] == {}
        assert all(type(k) is int and type(v) is float for k, v in weights[0].items())


class Pieces:
    def __init__(self, names):
        self.names = names

    def id_to_token(self, token_id):
        return self.names[token_id]


def test_pieces_that_read_alike_never_overwrite_each_other():
    sparse = SparseVectors(
        torch.tensor([0, 1, 2, 3]), torch.tensor([0.5, 0.25, 1.0, 2.0]), torch.tensor([0, 4]), 4
    )
    found = sparse.tokens(Pieces(["▁word", "word", "same", "same"]))
    assert found == [{"▁word": 0.5, "word": 0.25, "same": 1.0, "same<3>": 2.0}]


@given(lengths, st.integers(0, 7))
def test_the_top_weights_are_the_largest_in_ascending_token_order(lengths, k):
    sparse = make(lengths, outputs=("sparse",)).sparse
    for kept, all_of_them in zip(sparse.top(k).to_dicts(), sparse.to_dicts(), strict=True):
        best = sorted(all_of_them.items(), key=lambda entry: (-entry[1], entry[0]))[:k]
        assert kept == dict(best)
        assert list(kept) == sorted(kept)


def test_of_equal_weights_the_smaller_ids_stay():
    sparse = SparseVectors(torch.tensor([4, 6, 8]), torch.ones(3), torch.tensor([0, 3]), 9)
    assert sparse.top(2).token_ids.tolist() == [4, 6]
    with pytest.raises(InputError, match="0 or more"):
        sparse.top(-1)


# --- stores ---------------------------------------------------------------------------------------


def small():
    return Embeddings(
        dense=torch.tensor([[0.1, -2.0], [1e-8, 3.0]]),
        sparse=SparseVectors(torch.tensor([0, 7]), torch.tensor([0.5, 0.1]), torch.tensor([0, 2, 2]), 9),
        multivector=MultiVectors(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), torch.tensor([0, 2, 3])),
        num_tokens=torch.tensor([3, 2]),
        truncated=torch.tensor([False, False]),
        recomputed=torch.tensor([False, False]),
    )


def float32(value):
    return float(np.float32(value))


def test_qdrant_takes_named_vectors():
    assert small().to_qdrant() == [
        {
            "dense": [float32(0.1), -2.0],
            "sparse": {"indices": [0, 7], "values": [0.5, float32(0.1)]},
            "multivector": [[1.0, 0.0], [0.0, 1.0]],
        },
        {
            "dense": [float32(1e-8), 3.0],
            "sparse": {"indices": [], "values": []},
            "multivector": [[float32(0.6), float32(0.8)]],
        },
    ]
    json.dumps(small().to_qdrant())


def test_milvus_takes_rows_with_sparse_dictionaries():
    first, second = small().to_milvus()
    assert first["sparse"] == {0: 0.5, 7: float32(0.1)}
    assert all(type(k) is int and type(v) is float for k, v in first["sparse"].items())
    assert second["sparse"] == {}
    assert first["multivector"] == [{"vector": [1.0, 0.0]}, {"vector": [0.0, 1.0]}]
    assert second["dense"] == [float32(1e-8), 3.0]


def test_pgvector_takes_text_with_sparse_entries_counted_from_one():
    assert small().to_pgvector() == [
        {"dense": "[0.1,-2.0]", "sparse": "{1:0.5,8:0.1}/9", "multivector": ["[1.0,0.0]", "[0.0,1.0]"]},
        {"dense": "[1e-08,3.0]", "sparse": "{}/9", "multivector": ["[0.6,0.8]"]},
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_store_takes_every_dtype(dtype):
    for rows in (
        small().to(dtype).to_qdrant(),
        small().to(dtype).to_milvus(),
        small().to(dtype).to_pgvector(),
    ):
        json.dumps(rows)
    assert json.loads(small().to(dtype).to_pgvector()[0]["dense"]) == pytest.approx([0.1, -2.0], rel=4e-3)


def dense_only(dim):
    flags = torch.tensor([False])
    return Embeddings(torch.zeros(1, dim), None, None, torch.tensor([2]), flags, flags)


def test_only_what_was_asked_for_is_sent():
    assert dense_only(2).to_qdrant() == dense_only(2).to_milvus() == [{"dense": [0.0, 0.0]}]


def multivectors(*lengths, dim):
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    flags = torch.zeros(len(lengths), dtype=torch.bool)
    vectors = MultiVectors(torch.zeros(int(offsets[-1]), dim), offsets)
    return Embeddings(None, None, vectors, torch.tensor(lengths), flags, flags)


def test_a_multivector_too_large_for_qdrant_names_the_text_and_the_mend():
    assert len(multivectors(1, 1023, dim=1024).to_qdrant()[1]["multivector"]) == 1023
    with pytest.raises(InputError, match=r"Text 1 has 1024 vectors of 1024.*max_length=1024"):
        multivectors(1, 1024, dim=1024).to_qdrant()


@pytest.mark.parametrize("store", ["qdrant", "milvus"])
def test_an_empty_multivector_names_the_text(store):
    with pytest.raises(InputError, match=r"Text 1 has no vectors"):
        getattr(multivectors(1, 0, dim=2), f"to_{store}")()


@pytest.mark.parametrize(("store", "limit"), [("qdrant", 65_535), ("milvus", 32_768), ("pgvector", 16_000)])
def test_a_vector_too_wide_for_the_store_is_refused(store, limit):
    getattr(dense_only(limit), f"to_{store}")()
    with pytest.raises(InputError, match=f"dimensions={limit}"):
        getattr(dense_only(limit + 1), f"to_{store}")()


def test_too_many_lexical_weights_for_pgvector_name_the_text_and_the_mend():
    ids = torch.arange(16_001)
    flags = torch.tensor([False, False])
    sparse = SparseVectors(ids, torch.ones(16_001), torch.tensor([0, 0, 16_001]), 20_000)
    many = Embeddings(None, sparse, None, torch.tensor([2, 3]), flags, flags)
    with pytest.raises(InputError, match=r"Text 1 has 16,001 lexical weights.*\.top\(16000\)"):
        many.to_pgvector()
    assert sparse.top(16_000).lengths.tolist() == [0, 16_000]
