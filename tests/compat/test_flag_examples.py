"""FlagEmbedding's public examples and tests for encode and compute_score, in our words, on tiny checkpoints.

Each test names where the example stands: README files, examples/inference, the model card of BGE-M3, tests.
"""

import importlib
import os

import numpy as np
import pytest
import torch

import tercet.compat
import tiny
import tiny_reranker
from tercet.compat import BGEM3FlagModel, FlagAutoModel, FlagAutoReranker, FlagModel, FlagReranker

pytestmark = pytest.mark.compat

INSTRUCTION = "search the list of passages: "
QUERIES = ["what is the city of the river", "how do I read a csv file"]
PASSAGES = ["Paris is the city of the river.", "open the file and read it line by line"]
DEVICES = ["cpu", ["cpu"], ["cpu", "cpu"]]
SCORES = ["colbert", "sparse", "dense", "sparse+dense", "colbert+sparse+dense"]


@pytest.fixture(scope="module")
def bge(tmp_path_factory):
    """A folder that is called like a published model."""
    return str(tiny.write_checkpoint(tmp_path_factory.mktemp("bge") / "bge-small-en-v1.5", "bert"))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A folder that somebody else named."""
    return str(tiny.write_checkpoint(tmp_path_factory.mktemp("tuned") / "ours", "bert", seed=4))


@pytest.fixture(scope="module")
def m3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("m3") / "bge-m3"
    return str(tiny.write_checkpoint(folder, "xlm-roberta", layout="bge-m3", file="bin"))


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    return str(tiny_reranker.write_reranker(tmp_path_factory.mktemp("reranker") / "bge-reranker-base"))


def repeats(scores):
    """Whether scores of two texts a hundred times are those of the two, a hundred times."""
    np.testing.assert_allclose(scores, np.tile(scores[:2, :2], (100, 100)), rtol=0, atol=1e-5)
    return scores.shape == (200, 200) and bool(np.isfinite(scores).all())


# Embedders, README


def both_ways(model):
    """What the README does with each of its embedders."""
    similarity = model.encode(QUERIES) @ model.encode(PASSAGES).T
    assert similarity.shape == (2, 2)
    assert (np.abs(similarity) <= 1 + 1e-5).all()
    scores = model.encode_queries(QUERIES) @ model.encode_corpus(PASSAGES).T
    assert scores.shape == (2, 2)
    assert np.abs(scores - similarity).max() > 1e-4, "the instruction stands before queries alone"


def test_readme_auto_model(bge):
    both_ways(
        FlagAutoModel.from_finetuned(
            bge, query_instruction_for_retrieval=INSTRUCTION, use_fp16=True, devices=["cpu"]
        )
    )


def test_readme_custom_model_by_its_class(tuned):
    both_ways(
        FlagAutoModel.from_finetuned(
            tuned,
            model_class="encoder-only-base",
            query_instruction_for_retrieval=INSTRUCTION,
            pooling_method="cls",
            use_fp16=True,
            devices=["cpu"],
        )
    )


def test_readme_normal_model(bge):
    model = FlagModel(bge, query_instruction_for_retrieval=INSTRUCTION, use_fp16=True, devices=["cpu"])
    both_ways(model)


def test_readme_m3_model(m3):
    model = BGEM3FlagModel(m3, use_fp16=True, pooling_method="cls", devices=["cpu"])
    wanted = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": False}
    for first, second in ((model.encode, model.encode), (model.encode_queries, model.encode_corpus)):
        queries, passages = first(QUERIES, **wanted), second(PASSAGES, **wanted)
        assert (queries["dense_vecs"] @ passages["dense_vecs"].T).shape == (2, 2)
        lexical = model.compute_lexical_matching_score(
            queries["lexical_weights"], passages["lexical_weights"]
        )
        assert lexical.shape == (2, 2)
        assert (lexical >= 0).all()
        assert queries["colbert_vecs"] is None


# Embedders, examples/inference/embedder/encoder_only


@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("make", [FlagModel, FlagAutoModel.from_finetuned])
def test_examples_base_and_auto_base(bge, make, devices):
    model = make(
        bge,
        query_instruction_for_retrieval=INSTRUCTION,
        devices=devices,
        cache_dir=os.getenv("HF_HUB_CACHE", None),
    )
    assert repeats(model.encode_queries(QUERIES * 100) @ model.encode_corpus(PASSAGES * 100).T)


@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("make", [BGEM3FlagModel, FlagAutoModel.from_finetuned])
def test_examples_m3_and_auto_m3(m3, make, devices):
    model = make(m3, devices=devices, cache_dir=os.getenv("HF_HUB_CACHE", None))
    wanted = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": False}
    queries = model.encode_queries(QUERIES * 100, **wanted)
    passages = model.encode_corpus(PASSAGES * 100, **wanted)
    assert repeats(queries["dense_vecs"] @ passages["dense_vecs"].T)
    assert repeats(
        model.compute_lexical_matching_score(queries["lexical_weights"], passages["lexical_weights"])
    )


@pytest.mark.parametrize("devices", DEVICES)
def test_examples_m3_compute_score(m3, devices):
    model = BGEM3FlagModel(
        m3, normalize_embeddings=True, use_fp16=True, devices=devices, pooling_method="cls"
    )
    weights = [1.0, 0.3, 1.0]
    queries, passages = QUERIES * 100, PASSAGES * 100
    found = model.compute_score(
        list(zip(queries, passages, strict=True)), weights_for_different_modes=weights
    )
    queries.reverse()
    crossed = model.compute_score(
        list(zip(queries, passages, strict=True)), weights_for_different_modes=weights
    )
    assert list(found) == list(crossed) == SCORES
    for name in SCORES:
        assert len(found[name]) == 200
        np.testing.assert_allclose(found[name], found[name][:2] * 100, rtol=0, atol=1e-5)
    assert found["dense"][:2] != crossed["dense"][:2]


def test_examples_m3_ensemble(m3):
    model = BGEM3FlagModel(m3, use_fp16=False, devices="cpu", pooling_method="cls")
    wanted = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}
    queries, passages = model.encode_queries(QUERIES, **wanted), model.encode_corpus(PASSAGES, **wanted)
    dense = torch.tensor(queries["dense_vecs"]) @ torch.tensor(passages["dense_vecs"]).T
    lexical = torch.tensor(
        model.compute_lexical_matching_score(queries["lexical_weights"], passages["lexical_weights"])
    )
    late = torch.stack(
        [
            torch.stack(
                [model.colbert_score(query, passage) * len(query) for passage in passages["colbert_vecs"]]
            )
            for query in queries["colbert_vecs"]
        ]
    )
    padded = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(rows) for rows in queries["colbert_vecs"]], batch_first=True
    )
    by_hand = torch.stack(
        [
            torch.einsum("qrd,cd->qrc", padded, torch.tensor(rows)).amax(dim=2).sum(dim=1)
            for rows in passages["colbert_vecs"]
        ],
        dim=1,
    )
    torch.testing.assert_close(late, by_hand, rtol=0, atol=1e-4)
    hybrid = 0.45 * dense + 0.45 * lexical + 0.1 * late
    assert hybrid.shape == (2, 2)
    assert bool(hybrid.isfinite().all())


# BGE-M3's model card


def test_model_card_dense(m3):
    model = BGEM3FlagModel(m3, use_fp16=True, devices="cpu")
    first = model.encode(QUERIES, batch_size=12, max_length=8192)["dense_vecs"]
    second = model.encode(PASSAGES)["dense_vecs"]
    similarity = first @ second.T
    assert similarity.shape == (2, 2)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=0, atol=1e-5)


def test_model_card_lexical_weights(m3):
    model = BGEM3FlagModel(m3, use_fp16=True, devices="cpu")
    first, second = (
        model.encode(texts, return_dense=True, return_sparse=True, return_colbert_vecs=False)
        for texts in (QUERIES, PASSAGES)
    )
    named = model.convert_id_to_token(first["lexical_weights"])
    for weights, text in zip(named, QUERIES, strict=True):
        assert set(weights) - {""} <= {piece for word in text.split() for piece in (word, *word)} | {"▁"}
    lexical = first["lexical_weights"]
    across = model.compute_lexical_matching_score(lexical[0], second["lexical_weights"][0])
    by_hand = sum(weight * second["lexical_weights"][0].get(token, 0) for token, weight in lexical[0].items())
    assert across == pytest.approx(by_hand)
    assert model.compute_lexical_matching_score(lexical[0], lexical[0]) > 0


def test_model_card_multi_vectors(m3):
    model = BGEM3FlagModel(m3, use_fp16=True, devices="cpu")
    wanted = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}
    first, second = model.encode(QUERIES, **wanted), model.encode(PASSAGES, **wanted)
    own = model.colbert_score(first["colbert_vecs"][0], first["colbert_vecs"][0])
    assert float(own) == pytest.approx(1.0, abs=1e-5)
    assert float(model.colbert_score(first["colbert_vecs"][0], second["colbert_vecs"][0])) <= float(own)


def test_model_card_scores_of_text_pairs(m3):
    model = BGEM3FlagModel(m3, use_fp16=True, devices="cpu")
    pairs = [[query, passage] for query in QUERIES for passage in PASSAGES]
    found = model.compute_score(pairs, max_passage_length=128, weights_for_different_modes=[0.4, 0.2, 0.4])
    assert list(found) == SCORES
    d, s, c = (np.array(found[name]) for name in ("dense", "sparse", "colbert"))
    np.testing.assert_allclose(found["sparse+dense"], (0.2 * s + 0.4 * d) / 0.6, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found["colbert+sparse+dense"], 0.4 * c + 0.2 * s + 0.4 * d, rtol=0, atol=1e-6)


# Rerankers, README and examples/inference/reranker/encoder_only


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (FlagReranker, {}),
        (FlagAutoReranker.from_finetuned, {}),
        (FlagAutoReranker.from_finetuned, {"model_class": "encoder-only-base"}),
    ],
)
def test_readme_rerankers(reranker, make, options):
    model = make(reranker, query_max_length=256, use_fp16=True, devices=["cpu"], **options)
    pairs = [[QUERIES[0], "no"], [QUERIES[0], PASSAGES[0]]]
    [plain], [normal] = (model.compute_score(pairs[0], normalize=normalize) for normalize in (False, True))
    assert normal == pytest.approx(1 / (1 + np.exp(-plain)), rel=1e-5)
    scores = model.compute_score(pairs)
    assert scores[0] == pytest.approx(plain, abs=1e-5)
    assert scores[0] != scores[1]
    assert all(0 < score < 1 for score in model.compute_score(pairs, normalize=True))


@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("make", [FlagReranker, FlagAutoReranker.from_finetuned])
def test_examples_rerankers(reranker, make, devices):
    model = make(reranker, use_fp16=True, devices=devices, cache_dir=os.getenv("HF_HUB_CACHE", None))
    pairs = [[query, passage] for query in QUERIES for passage in PASSAGES] * 100
    scores = model.compute_score(pairs)
    assert len(scores) == 400
    np.testing.assert_allclose(scores, scores[:4] * 100, rtol=0, atol=1e-5)
    assert len(set(scores[:4])) == 4


# FlagEmbedding's tests


@pytest.mark.parametrize(
    "name", ["FlagModel", "FlagAutoModel", "BGEM3FlagModel", "FlagReranker", "FlagAutoReranker"]
)
def test_imports(name):
    assert getattr(importlib.import_module("tercet.compat"), name).__name__ == name
    assert name in tercet.compat.__all__
    assert name in dir(tercet.compat)


def test_embedder_basic(bge):
    model = FlagModel(bge, devices="cpu")
    query, passage = model.encode(QUERIES[0]), model.encode(PASSAGES[0])
    for found in (query, passage):
        assert isinstance(found, np.ndarray)
        assert found.ndim == 1
        assert np.isfinite(found).all()
    assert -1 <= query @ passage / (np.linalg.norm(query) * np.linalg.norm(passage)) <= 1


def test_embedder_batch(bge):
    found = FlagModel(bge, devices="cpu").encode(QUERIES)
    assert isinstance(found, np.ndarray)
    assert found.ndim == 2
    assert len(found) == 2
    assert np.isfinite(found).all()


def test_reranker_basic(reranker):
    [score] = FlagReranker(reranker, devices="cpu").compute_score([(QUERIES[0], PASSAGES[0])])
    assert isinstance(score, float)
    assert -100 < score < 100


def test_reranker_batch(reranker):
    scores = FlagReranker(reranker, devices="cpu").compute_score(
        [(QUERIES[0], passage) for passage in PASSAGES]
    )
    assert isinstance(scores, list)
    assert len(scores) == 2
    assert all(isinstance(score, float) for score in scores)
