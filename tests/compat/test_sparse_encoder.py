"""SparseEncoder: the peer's own examples in our words, and what is refused."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
import tiny_sparse
from tercet.compat import SparseEncoder
from tercet.compat.sparse_similarities import SPARSE_PAIRWISE, SPARSE_SIMILARITIES
from tercet.errors import CheckpointError, InputError, UnknownNameError

TEXTS = ["The weather is so nice", "It is sunny outside", "a river in the city", "the moon"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny_sparse.write_splade(tmp_path_factory.mktemp("splade"))
    return SparseEncoder(str(folder), device="cpu", model_kwargs={"dtype": "float32"})


@pytest.fixture(scope="module")
def csr(tmp_path_factory):
    folder = tiny_sparse.write_csr(tmp_path_factory.mktemp("csr"))
    return SparseEncoder(str(folder), device="cpu", model_kwargs={"dtype": "float32"})


def test_texts_become_one_sparse_matrix_whose_similarities_are_dot_products(model):
    embeddings = model.encode(TEXTS)
    assert embeddings.shape == (4, model.get_embedding_dimension())
    assert embeddings.is_sparse
    assert embeddings.is_coalesced()
    similarities = model.similarity(embeddings, embeddings)
    rows = embeddings.to_dense()
    torch.testing.assert_close(similarities, rows @ rows.T)
    assert model.similarity_fn_name == "dot"
    model.similarity_fn_name = "cosine"
    try:
        torch.testing.assert_close(
            model.similarity(embeddings, embeddings).diagonal(), torch.ones(4), rtol=1e-6, atol=1e-6
        )
    finally:
        model.similarity_fn_name = None


def test_queries_and_documents_share_words_that_can_be_read(model):
    query, documents = model.encode_query("the river"), model.encode_document(TEXTS)
    shared = model.intersection(query, documents)
    read = model.decode(shared, top_k=3)
    assert [len(words) for words in read] == [3] * 4
    for words, row in zip(read, shared.to_dense(), strict=True):
        values = [value for _, value in words]
        assert values == sorted(values, reverse=True)
        np.testing.assert_allclose(values, row.sort(descending=True).values[:3])
        assert all(isinstance(word, str) and isinstance(value, float) for word, value in words)
    assert model.decode(query) == model.decode(query.to_dense())
    assert model.decode(torch.zeros(model.get_embedding_dimension())) == []


@pytest.mark.parametrize("most", [1, 5, 20])
def test_no_more_dimensions_are_active_than_asked_for(model, csr, most):
    for one in (model, csr):
        stats = one.sparsity(one.encode(TEXTS, max_active_dims=most))
        assert stats["active_dims"] == most
        assert stats["sparsity_ratio"] == pytest.approx(1 - most / one.get_embedding_dimension())


def test_the_number_of_active_dimensions_is_the_calls_the_models_the_folders_or_the_autoencoders(tmp_path):
    folder = tiny_sparse.write_splade(tmp_path / "saved", max_active_dims=6)
    assert SparseEncoder(folder, device="cpu").max_active_dims == 6
    model = SparseEncoder(folder, device="cpu", max_active_dims=4)
    assert (model.encode("a").values().numel(), model.max_active_dims) == (4, 4)
    assert model.encode("a", max_active_dims=3).values().numel() == 3
    model.max_active_dims = 2
    assert model.encode("a").values().numel() == 2
    assert SparseEncoder(tiny_sparse.write_csr(tmp_path / "csr", k=7), device="cpu").max_active_dims == 7
    for wrong in (0, -1, True, "4"):
        with pytest.raises(InputError, match=r"max_active_dims is .* positive integer"):
            SparseEncoder(folder, device="cpu", max_active_dims=wrong)
        with pytest.raises(InputError, match=r"max_active_dims is .* positive integer"):
            model.encode("a", max_active_dims=wrong)


def test_a_plain_folder_with_a_masked_language_head_is_a_splade_model(tmp_path):
    plain = tiny_sparse.write_splade(tmp_path / "plain", plain=True)
    whole = tiny_sparse.write_splade(tmp_path / "whole")
    options = {"device": "cpu", "model_kwargs": {"dtype": "float32"}}
    found, expected = (SparseEncoder(folder, **options).encode(TEXTS) for folder in (plain, whole))
    torch.testing.assert_close(found.to_dense(), expected.to_dense(), rtol=0, atol=0)


def test_a_model_without_a_sparse_module_is_refused_before_random_weights_are_added(tmp_path):
    folder = tiny.write_checkpoint(tmp_path, "bert", layout="sentence-transformers")
    with pytest.raises(CheckpointError, match=r"makes dense vectors.*random.*SentenceTransformer"):
        SparseEncoder(folder)


def test_another_precision_loads_anew_and_stays_near(tmp_path):
    model = SparseEncoder(tiny_sparse.write_splade(tmp_path), device="cpu", model_kwargs={"dtype": "float32"})
    before = model.encode(TEXTS).to_dense()
    for cast, drift in ((model.bfloat16, 5e-2), (model.half, 1e-2)):
        after = cast().encode(TEXTS).to_dense()
        assert after.dtype == torch.float32
        distance = (after - before).norm(dim=1) / before.norm(dim=1)
        assert 0 < distance.max() <= drift
    torch.testing.assert_close(model.float().encode(TEXTS).to_dense(), before, rtol=0, atol=0)


def test_words_of_an_autoencoders_dimensions_are_refused(csr):
    with pytest.raises(InputError, match="features of a SparseAutoEncoder, not words"):
        csr.decode(csr.encode("a"))


def test_what_cannot_be_is_refused_with_the_nearest_name(model, tmp_path):
    with pytest.raises(UnknownNameError, match=r"convert_to_dense.*convert_to_tensor"):
        model.encode("a", convert_to_dense=True)
    with pytest.raises(UnknownNameError, match=r"There is no prompt named 'qury'.*query"):
        model.encode("a", prompt_name="qury")
    with pytest.raises(UnknownNameError, match="no measure"):
        model.similarity_fn_name = "maxsim"
    with pytest.raises(InputError, match="batch_size"):
        model.encode("a", batch_size=0)
    with pytest.raises(InputError, match="pool and chunk_size"):
        model.encode("a", chunk_size=3)
    with pytest.raises(InputError, match=r"text 1 is of type int"):
        model.encode(["a", 3])
    for wrong in ("a", torch.zeros(2, 2, 2)):
        with pytest.raises(InputError, match=r"pass a tensor \(dim,\) or \(texts, dim\)"):
            model.sparsity(wrong)
        with pytest.raises(InputError, match=r"pass a tensor \(dim,\) or \(texts, dim\)"):
            model.decode(wrong)
    with pytest.raises(InputError, match="top_k is 0"):
        model.decode(model.encode("a"), top_k=0)
    with pytest.raises(InputError, match="pass one vector"):
        model.intersection(model.encode(TEXTS), model.encode("a"))
    with pytest.raises(InputError, match="share none"):
        model.intersection(torch.ones(3), torch.ones(4))
    with pytest.raises(InputError, match=r"2 and 3 embeddings make no pairs"):
        model.similarity_pairwise(torch.ones(2, 4), torch.ones(3, 4))
    with pytest.raises(InputError, match="3 and 4 dimensions cannot be compared"):
        model.similarity(torch.ones(3), torch.ones(4))
    with pytest.raises(InputError, match="trust_remote_code"):
        SparseEncoder(tmp_path, trust_remote_code=True)
    with pytest.raises(UnknownNameError, match="truncate_dim"):
        SparseEncoder(tmp_path, truncate_dim=3)


def test_saved_prompts_are_taken_by_role(tmp_path):
    folder = tiny_sparse.write_splade(tmp_path)
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prompts": {"query": "the moon "}}))
    model = SparseEncoder(folder, device="cpu", model_kwargs={"dtype": "float32"})
    expected = model.encode(["the moon " + text for text in TEXTS]).to_dense()
    torch.testing.assert_close(model.encode_query(TEXTS).to_dense(), expected, rtol=0, atol=0)
    plain = model.encode(TEXTS).to_dense()
    torch.testing.assert_close(model.encode_document(TEXTS).to_dense(), plain, rtol=0, atol=0)


matrices = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 9), st.integers(0, 9))


@given(matrices, st.sampled_from(["float32", "float16", "float64"]))
def test_measures_of_sparse_vectors_are_those_of_the_same_vectors_written_out(shape, dtype):
    rows, columns, dim, seed = shape
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.randn(count, dim, generator=generator) * (torch.rand(count, dim, generator=generator) < 0.5)
        for count in (rows, columns)
    )
    left, right = left.to(getattr(torch, dtype)), right.to(getattr(torch, dtype))
    a, b = left.double(), right.double()
    unit = torch.nn.functional.normalize
    expected = {
        "dot": a @ b.T,
        "cosine": unit(a) @ unit(b).T,
        "euclidean": -(a[:, None] - b).norm(dim=2),
        "manhattan": -(a[:, None] - b).abs().sum(2),
    }
    for name, wanted in expected.items():
        for one, other in ((left.to_sparse(), right), (left.numpy(), right.to_sparse()), (list(left), right)):
            found = SPARSE_SIMILARITIES[name](one, other)
            assert found.dtype == (torch.float64 if dtype == "float64" else torch.float32)
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
        pairs = SPARSE_PAIRWISE[name](left[:1].to_sparse(), right)
        np.testing.assert_allclose(pairs, wanted[0], rtol=1e-5, atol=1e-5)
        assert SPARSE_PAIRWISE[name](left[0], right[0].to_sparse()).shape == ()
