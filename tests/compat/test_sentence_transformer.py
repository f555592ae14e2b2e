"""SentenceTransformer as sentence-transformers calls it: what goes in, what comes out, what is refused."""

import logging
import pickle

import numpy as np
import pytest
import torch

import tiny
import tiny_modules
from tercet.compat import SentenceTransformer
from tercet.errors import InputError, PrecisionError, SourceError, UnknownNameError
from tercet.quantization import Quantizer

TEXTS = list(tiny.TEXTS)[:6]
PROMPTS = {"query": "the query: ", "passage": "the passage: "}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_checkpoint(
        tmp_path_factory.mktemp("st") / "model",
        "bert",
        layout="sentence-transformers",
        modules=("pooling", ("dense", {"out_features": 16}), "normalize"),
        prompts=PROMPTS,
    )


@pytest.fixture
def model(folder):
    return opened(folder)


def opened(folder, **options):
    return SentenceTransformer(str(folder), device="cpu", **{"model_kwargs": {"dtype": "float32"}, **options})


def test_one_text_gives_a_row_and_several_give_a_matrix_of_float32(model):
    one, several = model.encode(TEXTS[0]), model.encode(TEXTS)
    assert one.shape == (16,)
    assert several.shape == (len(TEXTS), 16)
    assert one.dtype == several.dtype == np.float32
    np.testing.assert_allclose(one, several[0], atol=1e-6)


@pytest.mark.parametrize("given", [tuple, np.array, lambda texts: np.array(texts, dtype=object), iter])
def test_texts_may_come_in_anything_that_has_an_order(given, model):
    np.testing.assert_array_equal(model.encode(given(TEXTS)), model.encode(TEXTS))


def test_a_text_may_be_a_dict_and_several_may_mix_both(model):
    expected = model.encode(TEXTS)
    np.testing.assert_array_equal(model.encode([{"text": TEXTS[0]}, *TEXTS[1:]]), expected)
    np.testing.assert_array_equal(model.encode({"text": TEXTS[0]}), model.encode(TEXTS[0]))
    np.testing.assert_array_equal(model.encode(np.array(TEXTS[0])), model.encode(TEXTS[0]))


def test_of_no_texts_comes_something_of_length_nought(model):
    assert model.encode([]).shape == (0,)
    assert model.encode((), convert_to_tensor=True).shape == (0,)
    assert model.encode([], convert_to_numpy=False) == []
    assert model.encode([], precision="binary").shape == (0,)


def test_the_flags_say_whether_an_array_a_tensor_or_a_list_comes_out(model):
    array = model.encode(TEXTS)
    tensor = model.encode(TEXTS, convert_to_tensor=True)
    rows = model.encode(TEXTS, convert_to_numpy=False)
    assert torch.equal(tensor, torch.from_numpy(array))
    assert isinstance(rows, list)
    assert torch.equal(torch.stack(rows), tensor)
    assert torch.equal(
        model.encode(TEXTS[0], convert_to_numpy=False), model.encode(TEXTS[0], convert_to_tensor=True)
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (7, "type int"),
        (None, "type NoneType"),
        (b"bytes", "Decode it first"),
        ({"a", "b"}, "set"),
        (range(3), r"text 0 is of type int"),
        ([*TEXTS, None], rf"text {len(TEXTS)} is of type NoneType .*Drop missing values"),
        ([("a", "b")], r"text 0 is a tuple .*Pairs are not embedded"),
        ([{"role": "user", "content": "hello"}], "Conversations are not embedded"),
        ([{"txt": "a"}], r"'txt'.*Did you mean 'text'"),
        (np.array([1.0, 2.0]), "text 0 is of type float"),
    ],
)
def test_what_is_no_text_is_a_value_error_that_says_where(given, message, model):
    with pytest.raises(ValueError, match=message):
        model.encode(given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batchsize": 8}, r"encode\(\) has no keyword 'batchsize'. Did you mean 'batch_size'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"precision": "int4"}, "precision is 'int4'. Did you mean 'int8'"),
        ({"output_value": "sentence_embeddings"}, "Did you mean 'sentence_embedding'"),
        ({"prompt_name": "qery"}, "no prompt named 'qery'. Did you mean 'query'"),
        ({"truncate_dim": 0}, "truncate_dim is 0"),
        ({"pool": {"input": None}}, "one process uses all cores"),
        ({"chunk_size": 5}, "one process uses all cores"),
        ({"processing_kwargs": {"image": {}}}, "no group 'image'"),
        ({"processing_kwargs": {"text": {"maxlength": 4}}}, "Did you mean 'max_length'"),
        ({"processing_kwargs": {"text": {"truncation": False}}}, "truncation cannot be turned off"),
        ({"sentences": ["a"]}, "'sentences' is the older name of 'inputs', and both were given"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_the_mend(options, message, model):
    with pytest.raises(ValueError, match=message):
        model.encode(inputs=TEXTS, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devise": "cpu"}, "Did you mean 'device'"),
        ({"trust_remote_code": True}, "never run here. Leave it out"),
        ({"model_kwargs": {"trust_remote_code": True}}, r"model_kwargs\['trust_remote_code'\].*never run"),
        ({"backend": "onnx"}, "backend is 'onnx'"),
        ({"modules": []}, "not made of modules"),
        ({"model_card_data": {}}, "belongs to training"),
        ({"token": False}, "token=False"),
        ({"similarity_fn_name": "cosin"}, "Did you mean 'cosine'"),
        ({"similarity_fn_name": "maxsim"}, "tercet.scoring.maxsim"),
        ({"default_prompt_name": "pasage"}, "Did you mean 'passage'"),
        ({"prompts": ["query"]}, "prompts is of type list"),
        ({"truncate_dim": -1}, "truncate_dim is -1"),
        ({"model_kwargs": {"dtyp": "float16"}}, "'dtyp' is not known.*Did you mean 'dtype'"),
        ({"model_kwargs": {"dtype": "float16", "torch_dtype": "float32"}}, "Pass one dtype"),
        ({"model_kwargs": {"load_in_8bit": True}}, "'dtype': 'int8'"),
        ({"model_kwargs": {"file_name": "model.onnx"}}, "other backends than 'torch'"),
        ({"model_kwargs": {"device_map": "balanced"}}, "a model is on one device"),
        ({"model_kwargs": "float16"}, "model_kwargs is of type str"),
        ({"processor_kwargs": {"truncation_side": "left"}}, "long texts lose their end"),
        ({"tokenizer_kwargs": {"model_max_lenght": 5}}, "Did you mean 'model_max_length'"),
        ({"config_kwargs": {"num_labels": 2}}, "config_kwargs: 'num_labels' is not known"),
        ({"tokenizer_kwargs": {}, "processor_kwargs": {}}, "older name of 'processor_kwargs'"),
    ],
)
def test_a_model_is_not_made_with_an_option_that_cannot_be(options, message, folder):
    with pytest.raises(InputError, match=message):
        opened(folder, **options)


def test_a_model_must_be_named():
    with pytest.raises(InputError, match="pass model_name_or_path"):
        SentenceTransformer()


def test_a_name_without_an_organisation_is_one_of_sentence_transformers(tmp_path):
    for name, there in (
        ("all-MiniLM-L12-v2", "sentence-transformers/all-MiniLM-L12-v2"),
        ("roberta-base", "roberta-base"),
    ):
        with pytest.raises(SourceError, match=there):
            SentenceTransformer(name, local_files_only=True, cache_folder=tmp_path)


def test_a_dtype_is_a_wish_in_any_spelling_and_vectors_stay_float32(folder):
    exact = opened(folder).encode(TEXTS)
    for key in ("dtype", "torch_dtype"):
        for spelling in (torch.float16, "float16", "half"):
            half = opened(folder, model_kwargs={key: spelling})
            assert half.dtype == torch.float16
            found = half.encode(TEXTS, precision="float32")
            assert found.dtype == np.float32
            assert 0 < np.abs(found - exact).max() < 5e-3
    assert opened(folder, model_kwargs=None, config_kwargs={"dtype": "bfloat16"}).dtype == torch.bfloat16
    assert (
        opened(folder, model_kwargs={"device_map": {"": "cpu"}, "attn_implementation": "eager"}).device.type
        == "cpu"
    )


def test_precision_changes_as_a_whole_and_back(model):
    first = model.encode(TEXTS)
    assert model.half() is model
    assert model.dtype == torch.float16
    half = model.encode(TEXTS)
    assert 0 < np.abs(half - first).max() < 5e-3
    assert model.bfloat16().dtype == torch.bfloat16
    np.testing.assert_array_equal(model.float().eval().cpu().encode(TEXTS), first)


def test_asking_for_the_device_that_it_is_on_loads_nothing(model):
    before = model.embedder
    model.encode(TEXTS, device="cpu")
    model.encode(TEXTS, device=["cpu", "cpu"])
    assert model.to("cpu").embedder is before
    with pytest.raises(PrecisionError, match="no such device"):
        model.encode(TEXTS, device="cuda:63")


def test_a_prompt_outranks_its_name_and_that_the_default(folder, caplog):
    model = opened(folder, default_prompt_name="passage")
    assert model.prompts == {"query": PROMPTS["query"], "document": "", "passage": PROMPTS["passage"]}
    plain = {text: opened(folder).encode(text + TEXTS[0]) for text in ("", "own: ", *PROMPTS.values())}
    for options, text in (
        ({}, PROMPTS["passage"]),
        ({"prompt_name": "query"}, PROMPTS["query"]),
        ({"prompt": ""}, ""),
        ({"prompt": "own: ", "prompt_name": "query"}, "own: "),
    ):
        np.testing.assert_allclose(model.encode(TEXTS[0], **options), plain[text], atol=1e-6)
    assert "prompt_name='query' is not used" in caplog.text
    np.testing.assert_allclose(model.encode_query(TEXTS[0]), plain[PROMPTS["query"]], atol=1e-6)
    np.testing.assert_allclose(model.encode_document(TEXTS[0]), plain[""], atol=1e-6)
    np.testing.assert_allclose(model.encode_document(TEXTS[0], prompt="own: "), plain["own: "], atol=1e-6)


def test_prompts_that_are_given_outrank_those_that_are_saved(folder):
    model = opened(folder, prompts={"query": "another: ", "passage": None, "new": None})
    assert model.prompts == {"query": "another: ", "document": "", "passage": PROMPTS["passage"], "new": ""}


def test_fewer_dimensions_are_cut_and_made_unit_length_only_where_asked(model):
    whole = model.encode(TEXTS)
    cut = model.encode(TEXTS, truncate_dim=5)
    np.testing.assert_array_equal(cut, whole[:, :5])
    unit = model.encode(TEXTS, truncate_dim=5, normalize_embeddings=True)
    np.testing.assert_allclose(unit, cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_array_equal(model.encode(TEXTS, truncate_dim=500), whole)
    with model.truncate_embeddings(5):
        assert model.get_embedding_dimension() == 5
        np.testing.assert_array_equal(model.encode(TEXTS), cut)
        np.testing.assert_array_equal(model.encode(TEXTS, truncate_dim=16), whole)
    assert model.get_sentence_embedding_dimension() == model.encode(TEXTS).shape[1] == 16


def test_bits_are_the_signs_of_the_vectors(model):
    vectors = model.encode(TEXTS)
    bits = np.packbits(vectors > 0, axis=1)
    np.testing.assert_array_equal(model.encode(TEXTS, precision="ubinary"), bits)
    np.testing.assert_array_equal(
        model.encode(TEXTS, precision="binary"), (bits.astype(int) - 128).astype(np.int8)
    )
    assert torch.equal(
        model.encode(TEXTS, precision="ubinary", convert_to_tensor=True), torch.from_numpy(bits)
    )


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_8_bit_codes_need_ranges_and_are_then_the_same_in_any_company(precision, model):
    with pytest.raises(PrecisionError, match=r"model.quantizer = Quantizer.fit"):
        model.encode(TEXTS, precision=precision)
    model.quantizer = Quantizer.fit(model.encode(list(tiny.TEXTS), convert_to_tensor=True), "int8")
    codes = model.encode(TEXTS, precision=precision)
    assert codes.dtype == np.dtype(precision)
    np.testing.assert_array_equal(model.encode(TEXTS[0], precision=precision), codes[0])
    shifted = codes.astype(np.int16) - (128 if precision == "uint8" else 0)
    restored = model.quantizer.decode(torch.from_numpy(shifted.astype(np.int8))).numpy()
    np.testing.assert_allclose(restored, model.encode(TEXTS), atol=float(model.quantizer.ranges.step.max()))


def test_long_texts_are_cut_to_the_length_of_the_model_of_the_call_or_of_the_tokenizer(folder, caplog):
    model, text = opened(folder), "river " * 90
    assert model.max_seq_length == model.get_max_seq_length() == 66
    short = model.encode("river " * 5)  # five words and two special tokens
    call = model.encode(text, processing_kwargs={"text": {"max_length": 7, "truncation": True}})
    np.testing.assert_allclose(call, short, atol=1e-6)
    model.max_seq_length = 7
    np.testing.assert_allclose(model.encode(text), short, atol=1e-6)
    again = opened(folder, tokenizer_kwargs={"model_max_length": 7, "use_fast": True})
    assert again.max_seq_length == 7
    np.testing.assert_allclose(again.encode(text), short, atol=1e-6)
    model.max_seq_length = 500
    assert model.max_seq_length == 66
    assert "has positions for 66 tokens" in caplog.text


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarity_takes_arrays_tensors_and_lists_of_any_dtype(name, folder):
    model = opened(folder, similarity_fn_name=name)
    assert model.similarity_fn_name == name
    left, right = model.encode(TEXTS[:3], convert_to_tensor=True), model.encode(TEXTS, convert_to_tensor=True)
    expected = model.similarity(left, right)
    assert expected.shape == (3, len(TEXTS))
    assert torch.equal(model.similarity(left.numpy(), list(right)), expected)
    torch.testing.assert_close(model.similarity(left[0], right), expected[:1])
    half = model.similarity(left.half(), right.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, atol=0.05, rtol=0)
    pairs = model.similarity_pairwise(left, right[:3])
    torch.testing.assert_close(pairs, expected.diagonal(), atol=1e-6, rtol=0)
    assert model.similarity_pairwise(left[1], right[1]).shape == ()
    with pytest.raises(InputError, match="5 and 16 dimensions cannot be compared"):
        model.similarity(left[:, :5], right)
    with pytest.raises(InputError, match="3 and 6 embeddings make no pairs"):
        model.similarity_pairwise(left, right)


def test_a_measure_can_be_set_and_a_saved_one_is_followed(model):
    assert model.similarity_fn_name == "cosine"
    model.similarity_fn_name = "dot"
    vectors = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
    assert model.similarity(vectors, vectors).tolist() == [[5.0, 11.0], [11.0, 25.0]]
    with pytest.raises(UnknownNameError, match="Did you mean 'manhattan'"):
        model.similarity_fn_name = "manhatan"


def test_near_vectors_keep_their_distance(model):
    model.similarity_fn_name = "euclidean"
    vectors = torch.ones(40, 16) + torch.arange(40)[:, None] * 1e-6
    found = model.similarity(vectors, vectors)
    torch.testing.assert_close(
        found[0, 39], -torch.linalg.vector_norm(vectors[39] - vectors[0]), rtol=1e-4, atol=0
    )


def test_a_model_can_be_pickled_with_what_was_set(model):
    model.max_seq_length, model.truncate_dim, model.similarity_fn_name = 9, 5, "dot"
    again = pickle.loads(pickle.dumps(model))
    assert (again.max_seq_length, again.truncate_dim, again.similarity_fn_name) == (9, 5, "dot")
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))


def test_texts_with_a_bar_embed_as_without(model, monkeypatch, capsys):
    texts = TEXTS * 60
    expected = model.encode(texts)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    np.testing.assert_allclose(model.encode(texts, show_progress_bar=True), expected, atol=1e-6)
    assert "Batches" in capsys.readouterr().err
    model.encode(texts, show_progress_bar=False)
    assert capsys.readouterr().err == ""
    logging.getLogger("tercet").setLevel(logging.INFO)
    model.encode(texts)
    assert "Batches" in capsys.readouterr().err


def test_token_vectors_come_as_tensors_without_padding(model):
    rows = model.encode(TEXTS, output_value="token_embeddings")
    every = model.encode(TEXTS, output_value=None, truncate_dim=5, normalize_embeddings=True)
    ids = model.tokenizer.encode(TEXTS, max_length=66).ids
    for row, features, expected in zip(rows, every, ids, strict=True):
        assert row.shape == (len(expected), 32)
        assert torch.equal(row, features["token_embeddings"])
        assert features["input_ids"].tolist() == expected
        assert features["attention_mask"].tolist() == [1] * len(expected)
    vectors = torch.stack([features["sentence_embedding"] for features in every])
    expected = model.encode(TEXTS, convert_to_tensor=True, truncate_dim=5, normalize_embeddings=True)
    assert torch.equal(vectors, expected)
    torch.testing.assert_close(model.encode(TEXTS[0], output_value=None)["token_embeddings"], rows[0])
    torch.testing.assert_close(model.encode(TEXTS[0], output_value="token_embeddings"), rows[0])
    with pytest.raises(InputError, match="precision='binary' is for sentence embeddings"):
        model.encode(TEXTS, output_value="token_embeddings", precision="binary")


def test_queries_and_documents_take_their_routes_where_a_model_has_some(tmp_path):
    routes = {"query": (tiny_modules.dense("query", 16),), "document": (tiny_modules.dense("document", 8),)}
    folder = tiny_modules.write_stack(tmp_path, (tiny_modules.pooling("mean"), tiny_modules.router(routes)))
    model = opened(folder)
    query, document = model.encode_query(TEXTS), model.encode_document(TEXTS)
    np.testing.assert_array_equal(query, model.embedder.encode_query(TEXTS).numpy().dense)
    np.testing.assert_array_equal(document, model.embedder.encode_document(TEXTS).numpy().dense)
    assert (query.shape[1], document.shape[1]) == (16, 8)
    np.testing.assert_array_equal(model.encode(TEXTS, task="document"), document)
    np.testing.assert_array_equal(model.encode_query(TEXTS, truncate_dim=3), query[:, :3])
    for dtype in ("float16", "bfloat16"):
        half = opened(folder, model_kwargs={"dtype": dtype})
        for method, exact in (("encode_query", query), ("encode_document", document)):
            np.testing.assert_allclose(getattr(half, method)(TEXTS), exact, atol=0.05)
