"""sentence-transformers' public examples and tests of CrossEncoder, in our words, on tiny checkpoints."""

import numpy as np
import pytest
import torch

import tiny
import tiny_reranker
from tercet.compat import CrossEncoder, SentenceTransformer

pytestmark = pytest.mark.compat

QUERY = "How many people live in Berlin?"
PASSAGES = [
    "Berlin had a population of 3,520,031 in an area of 891.82 square kilometers.",
    "Berlin is well known for its museums.",
    "In 2014, the city state had 37,368 live births, a record number since 1991.",
    "The city of Paris had a population of 2,165,423 people.",
    "Berlin is subdivided into 12 boroughs.",
]
PASTA = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A man is riding a horse.",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny_reranker.write_reranker(tmp_path_factory.mktemp("cross") / "bce", "bert"))


@pytest.fixture(scope="module")
def entailing(tmp_path_factory):
    """A model of three labels, as those of natural language inference are."""
    return str(tiny_reranker.write_reranker(tmp_path_factory.mktemp("cross") / "nli", "roberta", labels=3))


@pytest.fixture
def model(folder):
    return CrossEncoder(folder, device="cpu")


# Usage


def test_usage_predicts_scores_of_pairs(model):
    scores = model.predict([(QUERY, PASSAGES[0]), (QUERY, PASSAGES[1])])
    assert scores.shape == (2,)
    assert scores.dtype == np.float32
    assert scores[0] != scores[1]


def test_usage_ranks_passages_for_a_query(model):
    ranks = model.rank(QUERY, PASSAGES)
    lines = [f"{rank['score']:.2f}\t{PASSAGES[rank['corpus_id']]}" for rank in ranks]
    assert len(lines) == len(PASSAGES)
    assert sorted(rank["corpus_id"] for rank in ranks) == list(range(len(PASSAGES)))
    assert [rank["score"] for rank in ranks] == sorted((rank["score"] for rank in ranks), reverse=True)


@pytest.mark.parametrize("keyword", ["activation_fn", "default_activation_function"])
def test_usage_of_scores_between_nought_and_one(folder, keyword):
    between = CrossEncoder(folder, device="cpu", **{keyword: torch.nn.Sigmoid()})
    logits = CrossEncoder(folder, device="cpu", **{keyword: torch.nn.Identity()})
    ranks, raw = (one.rank(QUERY, PASSAGES) for one in (between, logits))
    assert [rank["corpus_id"] for rank in ranks] == [rank["corpus_id"] for rank in raw]
    assert all(0 < rank["score"] < 1 for rank in ranks)


def test_quickstart_ranks_by_predict_with_numpy(model):
    """The two ways of the quickstart: rank, and predict with argsort."""
    ranks = model.rank(QUERY, PASSAGES)
    scores = model.predict([[QUERY, passage] for passage in PASSAGES])
    assert np.argsort(scores)[::-1].tolist() == [rank["corpus_id"] for rank in ranks]


def test_natural_language_inference_names_the_best_label(entailing):
    model = CrossEncoder(entailing, device="cpu")
    scores = model.predict([(PASTA[0], PASTA[1]), (PASTA[2], PASTA[3])])
    names = ["contradiction", "entailment", "neutral"]
    labels = [names[best] for best in scores.argmax(axis=1)]
    assert len(labels) == 2
    assert set(labels) <= set(names)


def test_retrieve_and_rerank(model, tmp_path):
    retriever = SentenceTransformer(
        str(tiny.write_checkpoint(tmp_path, "bert", layout="sentence-transformers")), device="cpu"
    )
    similar = retriever.similarity(retriever.encode(QUERY), retriever.encode(PASSAGES))[0]
    hits = [{"corpus_id": int(place)} for place in similar.topk(3).indices]
    scores = model.predict([[QUERY, PASSAGES[hit["corpus_id"]]] for hit in hits])
    for hit, score in zip(hits, scores, strict=True):
        hit["cross-score"] = score
    hits = sorted(hits, key=lambda hit: hit["cross-score"], reverse=True)
    assert len(hits) == 3
    assert [hit["cross-score"] for hit in hits] == sorted(scores, reverse=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", torch.float16, "auto"])
def test_efficiency_of_fewer_bits(folder, dtype):
    half = CrossEncoder(folder, device="cpu", model_kwargs={"torch_dtype": dtype})
    exact = CrossEncoder(folder, device="cpu", model_kwargs={"torch_dtype": "float32"})
    pairs = [(QUERY, passage) for passage in PASSAGES]
    np.testing.assert_allclose(half.predict(pairs), exact.predict(pairs), atol=0.02)


# Tests


@pytest.mark.parametrize("returned", [True, False])
def test_rank_returns_documents_where_asked(returned, model):
    ranks = model.rank(query="A man is eating pasta.", documents=PASTA, return_documents=returned)
    if returned:
        assert {rank["text"] for rank in ranks} == set(PASTA)
    else:
        assert all("text" not in rank for rank in ranks)


def test_rank_keeps_the_best(model):
    assert model.rank(QUERY, PASSAGES, top_k=2) == model.rank(QUERY, PASSAGES)[:2]


def test_several_labels_do_not_rank(entailing):
    with pytest.raises(ValueError, match="rank"):
        CrossEncoder(entailing, device="cpu").rank(query=QUERY, documents=PASSAGES)


def test_a_softmax_adds_up_to_one(entailing):
    model = CrossEncoder(entailing, device="cpu")
    pairs = [("A man is eating pasta.", other) for other in PASTA]
    ones = torch.ones(len(pairs))
    scores = model.predict(pairs, apply_softmax=True, convert_to_tensor=True)
    assert torch.isclose(scores.sum(1), ones).all()
    scores = model.predict(pairs, apply_softmax=False, convert_to_tensor=True)
    assert not torch.isclose(scores.sum(1), ones).all()


@pytest.mark.parametrize("kind", ["folder", "entailing"])
def test_one_pair_comes_back_without_its_list(kind, request):
    model = CrossEncoder(request.getfixturevalue(kind), device="cpu")
    labels = model.num_labels
    nested = model.predict([["A man is eating pasta.", "A man is eating food."]])
    assert nested.shape == ((1,) if labels == 1 else (1, labels))
    single = model.predict(["A man is eating pasta.", "A man is eating food."])
    assert isinstance(single, np.float32 if labels == 1 else np.ndarray)
    np.testing.assert_allclose(single, nested[0], atol=1e-6)


@pytest.mark.parametrize("tensor", [True, False])
@pytest.mark.parametrize("array", [True, False])
def test_each_form_of_scores_is_of_float32(tensor, array, model):
    found = model.predict([["One", "Another"]], convert_to_tensor=tensor, convert_to_numpy=array)
    assert type(found) is (torch.Tensor if tensor else np.ndarray if array else list)
    assert found[0].dtype == (np.float32 if array and not tensor else torch.float32)


def test_bfloat16_predicts_and_ranks(folder):
    model = CrossEncoder(folder, device="cpu", automodel_args={"torch_dtype": torch.bfloat16})
    assert isinstance(model.predict([["Hello there!", "Hello, World!"]]), np.ndarray)
    assert isinstance(model.rank("Hello there!", ["Hello, World!", "Heya!"]), list)


def test_the_number_of_labels_is_that_of_the_model(model, entailing):
    assert model.num_labels == 1
    assert CrossEncoder(entailing, device="cpu", num_labels=3).num_labels == 3
    assert model.device.type == "cpu"


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        (None, torch.nn.Sigmoid),
        ("torch.nn.modules.activation.Tanh", torch.nn.Tanh),
        ("torch.nn.modules.linear.Identity", torch.nn.Identity),
    ],
)
@pytest.mark.parametrize("keys", ["old", "new", "top"])
def test_a_saved_activation_is_taken_from_new_keys_and_old(keys, saved, expected, tmp_path):
    folder = tiny_reranker.write_reranker(tmp_path, "bert", activation=saved, keys=keys)
    model = CrossEncoder(str(folder), device="cpu")
    assert type(model.activation_fn) is expected
    logits = model.predict([(QUERY, PASSAGES[0])], activation_fn=torch.nn.Identity(), convert_to_tensor=True)
    found = CrossEncoder(str(folder), device="cpu").predict([(QUERY, PASSAGES[0])], convert_to_tensor=True)
    torch.testing.assert_close(found, expected()(logits))


@pytest.mark.parametrize(("labels", "expected"), [(1, torch.nn.Sigmoid), (3, torch.nn.Identity)])
def test_the_default_activation_goes_by_the_number_of_labels(labels, expected, folder, entailing):
    model = CrossEncoder(folder if labels == 1 else entailing, device="cpu")
    assert type(model.activation_fn) is expected


def test_the_longest_pair_is_that_of_the_tokenizer_and_can_be_set(model):
    assert model.max_length == 66
    model.max_length = 20
    long, cut = model.predict([(QUERY, "Paris " * 60)]), model.predict([(QUERY, "Paris " * 50)])
    np.testing.assert_allclose(long, cut, atol=1e-6)
