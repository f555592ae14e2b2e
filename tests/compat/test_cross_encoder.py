"""The CrossEncoder that is called as sentence-transformers' is."""

import pickle

import numpy as np
import pytest
import torch

import tiny_reranker
from recorder import rerankers
from tercet.compat import CrossEncoder
from tercet.errors import InputError, SourceError

PAIRS = [list(pair) for pair in rerankers.PAIRS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_reranker.write_reranker(tmp_path_factory.mktemp("cross") / "model", "bert")


@pytest.fixture
def model(folder):
    return opened(folder)


def opened(folder, **options):
    return CrossEncoder(str(folder), device="cpu", **{"model_kwargs": {"dtype": "float32"}, **options})


@pytest.mark.parametrize("given", [tuple, np.array, iter])
def test_pairs_may_come_in_anything_that_has_an_order(given, model):
    expected = model.predict(PAIRS)
    assert expected.shape == (len(PAIRS),)
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(model.predict(given(PAIRS)), expected)


def test_one_pair_gives_one_score_and_none_gives_none(model):
    one = model.predict(("the river", "the bridge"))
    assert isinstance(one, np.float32)
    assert one == pytest.approx(model.predict([("the river", "the bridge")])[0], abs=1e-6)
    assert model.predict(np.array(["the river", "the bridge"])) == pytest.approx(one, abs=1e-6)
    assert model.predict([]).shape == (0,)
    assert model.predict([], convert_to_tensor=True).shape == (0,)
    assert model.rank("the river", []) == []


def test_the_flags_say_whether_an_array_a_tensor_or_a_list_comes_out(model):
    array = model.predict(PAIRS)
    tensor = model.predict(PAIRS, convert_to_tensor=True)
    assert torch.equal(tensor, torch.from_numpy(array))
    assert torch.equal(torch.stack(model.predict(PAIRS, convert_to_numpy=False)), tensor)
    assert model.predict(PAIRS[0], convert_to_numpy=False).shape == ()


def test_logits_go_through_the_function_of_the_call_or_of_the_model(folder, model):
    logits = model.predict(PAIRS, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(model.predict(PAIRS), 1 / (1 + np.exp(-logits)), atol=1e-6)
    np.testing.assert_array_equal(model.predict(PAIRS, activation_fct=torch.nn.Identity()), logits)
    raw = opened(folder, activation_fn=torch.nn.Identity())
    np.testing.assert_array_equal(raw.predict(PAIRS), logits)
    np.testing.assert_array_equal(raw.predict(PAIRS, apply_softmax=True), logits)
    doubled = model.predict(PAIRS, activation_fn=lambda scores: 2 * scores)
    np.testing.assert_allclose(doubled, 2 * logits, rtol=1e-6)


def test_several_labels_give_several_scores_and_do_not_rank(tmp_path):
    model = opened(tiny_reranker.write_reranker(tmp_path, "bert", labels=3), num_labels=3)
    logits = model.predict(PAIRS)
    assert logits.shape == (len(PAIRS), 3)
    shares = model.predict(PAIRS, apply_softmax=True)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(shares.argmax(axis=1), logits.argmax(axis=1))
    assert model.predict(PAIRS[0]).shape == (3,)
    with pytest.raises(ValueError, match="3 scores a pair"):
        model.rank("a", ["b"])


def test_documents_are_ranked_with_their_places_scores_and_texts(model):
    query, documents = rerankers.RANKED
    found = model.rank(query, list(documents), return_documents=True)
    scores = model.predict([(query, text) for text in documents])
    assert [one["corpus_id"] for one in found] == np.argsort(-scores, kind="stable").tolist()
    for one in found:
        assert type(one["score"]) is float
        assert one["score"] == pytest.approx(float(scores[one["corpus_id"]]), abs=1e-6)
        assert one["text"] == documents[one["corpus_id"]]
    assert model.rank(query, documents, top_k=2) == [
        {"corpus_id": one["corpus_id"], "score": one["score"]} for one in found[:2]
    ]


def test_a_prompt_stands_before_each_query(folder):
    model = opened(folder, prompts={"search": "the query: "})
    prompted = [["the query: " + query, document] for query, document in PAIRS]
    expected = model.predict(prompted)
    for options in ({"prompt": "the query: "}, {"prompt_name": "search"}):
        np.testing.assert_allclose(model.predict(PAIRS, **options), expected, atol=1e-6)
    model.default_prompt_name = "search"
    np.testing.assert_allclose(model.predict(PAIRS), expected, atol=1e-6)
    with pytest.raises(ValueError, match="Did you mean 'search'"):
        model.predict(PAIRS, prompt_name="serch")


def test_long_pairs_are_cut_to_the_length_of_the_model_or_of_the_call(folder):
    short = opened(folder, max_length=24)
    assert short.max_length == short.max_seq_length == 24
    model = opened(folder)
    call = model.predict(PAIRS, processing_kwargs={"text": {"max_length": 24}})
    np.testing.assert_array_equal(call, short.predict(PAIRS))
    model.max_length = 24
    np.testing.assert_array_equal(model.predict(PAIRS), call)


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_scores_of_every_dtype_are_float32_and_near(stored, tmp_path):
    folder = tiny_reranker.write_reranker(tmp_path, "xlm-roberta", dtype=stored)
    model = opened(folder)
    exact = model.predict(PAIRS)
    for changed in (opened(folder, model_kwargs=None), model.half(), model.bfloat16()):
        found = changed.predict(PAIRS)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, exact, atol=0.05)
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_labels": 2}, "num_labels=2: .* has 1"),
        ({"keep_in_fp32_modules": ["2.linear"]}, "computes in float32 in any case"),
        ({"trust_remote_code": True}, "never run here"),
        ({"max_lenght": 3}, "Did you mean 'max_length'"),
        ({"default_prompt_name": "query"}, "none of the prompts"),
        ({"backend": "openvino"}, "backend is 'openvino'"),
        ({"automodel_args": {"dtyp": "float16"}, "model_kwargs": None}, "older name of 'model_kwargs'"),
    ],
)
def test_a_model_is_not_made_with_an_option_that_cannot_be(options, message, folder):
    with pytest.raises(InputError, match=message):
        opened(folder, **options)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ([["a"]], {}, "pair 0 has 1 parts"),
        ([["a", "b", "c"]], {}, "pair 0 has 3 parts"),
        ("a", {}, "Pass a list of"),
        (PAIRS, {"num_workers": 2}, "no keyword 'num_workers'"),
        (PAIRS, {"batch_size": 0}, "batch_size is 0"),
        (PAIRS, {"pool": {}}, "one process uses all cores"),
    ],
)
def test_a_call_that_cannot_be_is_a_value_error(inputs, options, message, model):
    with pytest.raises(ValueError, match=message):
        model.predict(inputs, **options)


def test_rank_takes_one_query_and_a_list(model):
    with pytest.raises(InputError, match="one query, a string, and a list"):
        model.rank("a", "b")


def test_a_name_without_an_organisation_is_one_of_cross_encoders(tmp_path):
    with pytest.raises(SourceError, match="cross-encoder/ms-marco-MiniLM-L6-v2"):
        CrossEncoder("ms-marco-MiniLM-L6-v2", local_files_only=True, cache_folder=tmp_path)


def test_a_model_can_be_pickled(model):
    model.max_length = 24
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(PAIRS), model.predict(PAIRS))
