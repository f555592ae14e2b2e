"""Models of late interaction on disk, and what is asked of them in wrong ways."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tercet
from recorder import late_cases
from tercet.batch import Batch
from tercet.checkpoint.layout import open_checkpoint
from tercet.cli.main import main
from tercet.errors import CheckpointError, InputError
from tercet.modules.late_chain import LateChain

POOLED, POOLING = "multi-vector, fewer of a document", "4_HierarchicalTokenPooling/config.json"


def edit(path, **changes):
    found = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**found, **changes}))


def load(folder, name="pylate"):
    return tercet.load(late_cases.write(folder, name), precision="float32", device="cpu")


def test_a_query_embeds_the_same_alone_and_among_others(tmp_path):
    model = load(tmp_path, "multi-vector, long queries stay")
    together = model.encode_query(late_cases.TEXTS).multivector
    for place, text in enumerate(late_cases.TEXTS):
        alone = model.encode_query([text]).multivector
        np.testing.assert_allclose(alone.vectors, together[place].vectors, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["multi-vector", "multi-vector of mpnet"])
def test_expanded_queries_are_computed_again_in_float32_as_they_were(tmp_path, name):
    from tercet.model import hidden_in_float32

    model = load(tmp_path, name)
    call = model._late.encode(late_cases.TEXTS, task="query", max_length=16)
    batch = call.batch(slice(0, len(late_cases.TEXTS)))
    assert batch.attended is not None
    np.testing.assert_allclose(
        hidden_in_float32(model.checkpoint, batch), model._engine.forward(batch), rtol=1e-4, atol=1e-5
    )


def test_what_expands_a_query_looks_at_it_and_is_not_looked_at(tmp_path):
    model = load(tmp_path, "colbert")
    short = model.encode_query(["the cat"]).multivector.vectors
    folder = tmp_path / "longer"
    late_cases.write(folder, "colbert")
    edit(folder / "artifact.metadata", query_maxlen=20)
    longer = tercet.load(folder, precision="float32", device="cpu").encode_query(["the cat"]).multivector
    assert len(short) == 16
    assert longer.lengths.tolist() == [20]
    np.testing.assert_allclose(longer.vectors[:16], short, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(longer.vectors[16], longer.vectors[17], atol=1e-3)  # their positions differ


def test_a_length_that_is_asked_for_outranks_the_documents_own(tmp_path):
    model = load(tmp_path)
    text = ["wait for several coroutines " * 8]
    counts = [int(model.encode_document(text, max_length=length).num_tokens[0]) for length in (None, 10, 40)]
    assert counts == [20, 10, 40]


def test_late_vectors_are_cut_and_made_unit_length_as_asked(tmp_path):
    model = load(tmp_path)
    cut = model.encode_document(late_cases.TEXTS, dimensions=4).multivector.vectors
    assert cut.shape[1] == 4
    assert torch.allclose(cut.norm(dim=1), torch.ones(len(cut)))
    raw = model.encode_document(late_cases.TEXTS, normalize=False).multivector.vectors
    unit = model.encode_document(late_cases.TEXTS).multivector.vectors
    assert torch.allclose(raw / raw.norm(dim=1, keepdim=True), unit, atol=1e-6)
    assert not torch.allclose(raw.norm(dim=1), torch.ones(len(raw)), atol=1e-2)


def test_a_model_of_late_interaction_pickles_and_scores_by_maxsim(tmp_path):
    model = load(tmp_path)
    again = pickle.loads(pickle.dumps(model))
    texts = list(late_cases.TEXTS[1:3])
    scores = again.score(texts, texts, reduction="sum").multivector
    queries, documents = model.encode_query(texts).multivector, model.encode_document(texts).multivector
    for row in range(2):
        for column in range(2):
            pairs = queries[row].vectors @ documents[column].vectors.T
            expected = pairs.max(dim=1).values.sum()
            assert float(scores[row, column]) == pytest.approx(float(expected), rel=1e-5)


def test_a_marker_that_is_no_token_stands_before_the_text(tmp_path):
    late_cases.write(tmp_path, "pylate")
    edit(tmp_path / "config_sentence_transformers.json", query_prefix="question: ")
    model = tercet.load(tmp_path, precision="float32", device="cpu")
    [ids] = model._late.encode(["the cat"], task="query", max_length=16).ids
    [expected] = model.tokenizer.encode(["question: the cat"], max_length=16).ids
    assert ids[: len(expected)] == expected
    assert len(set(ids[len(expected) :])) == 1


@pytest.mark.parametrize(
    ("name", "file", "changes", "says"),
    [
        ("pylate", "config_sentence_transformers.json", {"query_length": 0}, "'query_length' is 0"),
        ("pylate", "config_sentence_transformers.json", {"query_prefix": 3}, "'query_prefix' is 3"),
        ("pylate", "config_sentence_transformers.json", {"skiplist_words": "abc"}, "'skiplist_words'"),
        ("pylate", "config_sentence_transformers.json", {"do_query_expansion": 1}, "'do_query_expansion'"),
        ("pylate", "config_sentence_transformers.json", {"document_length": 100}, "texts of 100 tokens"),
        ("multi-vector", "sentence_bert_config.json", {"query_expansion": 5}, "'query_expansion' is 5"),
        (
            "multi-vector",
            "sentence_bert_config.json",
            {"query_expansion": {"strategy": "most", "length": 3}},
            "'strategy' is 'most'",
        ),
        ("multi-vector", "sentence_bert_config.json", {"query_expansion": {"lenght": 3}}, "mean 'length'"),
        ("multi-vector", "sentence_bert_config.json", {"query_length": 3}, "query_length is 3"),
        (
            "multi-vector",
            "sentence_bert_config.json",
            {"query_expansion": {"strategy": "min"}},
            "no 'length'",
        ),
        ("multi-vector", "2_MultiVectorMask/config.json", {"skiplist_words": [1]}, "'skiplist_words'"),
        ("multi-vector", "2_MultiVectorMask/config.json", {"other": 1}, "'other' is not known"),
        ("multi-vector", "1_Dense/config.json", {"module_input_name": "sentence_embedding"}, "is not 'token"),
        ("colbert", "artifact.metadata", {"doc_maxlen": "long"}, "'doc_maxlen' is 'long'"),
        (POOLED, POOLING, {"pool_factor": 0.5}, "'pool_factor' is 0.5"),
        (POOLED, POOLING, {"pool_factor": float("nan")}, "'pool_factor' is nan"),
        (POOLED, POOLING, {"pool_factor": 10**400}, "'pool_factor' is 1000"),
        (POOLED, POOLING, {"num_protected_tokens": -1}, "'num_protected_tokens' is -1"),
        (POOLED, POOLING, {"normalize_embeddings": 1}, "'normalize_embeddings' is 1"),
        (POOLED, POOLING, {"tasks": [1]}, "'tasks' is"),
        (POOLED, POOLING, {"factor": 2}, "'factor' is not known"),
    ],
)
def test_a_setting_of_late_interaction_that_cannot_be_is_refused_with_its_file(
    tmp_path, name, file, changes, says
):
    edit(late_cases.write(tmp_path, name) / file, **changes)
    with pytest.raises(CheckpointError, match=says) as caught:
        open_checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_pooling_of_token_vectors_comes_last(tmp_path):
    path = late_cases.write(tmp_path, POOLED) / "modules.json"
    *rest, before, last = json.loads(path.read_text())
    path.write_text(json.dumps([*rest, last, before]))
    with pytest.raises(CheckpointError, match=r"3_Normalize stands behind 4_Hier.*Correct the order"):
        open_checkpoint(tmp_path)


def test_texts_are_pooled_the_same_alone_and_among_others_and_cut_first(tmp_path):
    model = load(tmp_path, POOLED)
    together = model.encode_document(late_cases.TEXTS, dimensions=5).multivector
    for text, rows in zip(late_cases.TEXTS, together, strict=True):
        alone = model.encode_document([text], dimensions=5).multivector
        torch.testing.assert_close(rows.vectors, alone.vectors, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.vectors.norm(dim=1), torch.ones(len(together.vectors)))
    whole = model.encode_query(late_cases.TEXTS).multivector
    assert int(whole.lengths.sum()) > len(together.vectors)


def test_vectors_that_are_not_finite_are_not_pooled_but_seen():
    rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    rows[1, 2] = float("nan")
    batch = Batch.from_ids([[1, 2, 3, 4], [5, 6, 7, 8]])
    settings = {"pool_factor": 2.0, "protected": 0, "normalize": True}
    found = LateChain([], 4, torch.float32, settings)(rows, batch, pools=True)
    assert found.lengths.tolist() == [4, 2]
    assert found[0].vectors.isnan().any()
    assert found[1].vectors.isfinite().all()


def test_a_projection_that_does_not_fit_is_refused(tmp_path):
    late_cases.write(tmp_path, "colbert")
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["linear.weight"] = tensors["linear.weight"][:, :8].contiguous()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"'linear.weight' of \(any, 32\); it is \(8, 8\)"):
        open_checkpoint(tmp_path)


def test_what_expands_queries_must_be_a_token(tmp_path):
    late_cases.write(tmp_path, "multi-vector")
    expansion = {"strategy": "fixed", "length": 16, "token": "<nothing>"}
    edit(tmp_path / "sentence_bert_config.json", query_expansion=expansion)
    with pytest.raises(CheckpointError, match="'<nothing>', which the tokenizer does not have"):
        tercet.load(tmp_path, precision="float32", device="cpu")


def test_what_late_interaction_cannot_do_is_refused(tmp_path):
    model = load(tmp_path)
    with pytest.raises(InputError, match=r"task='querry'.*Did you mean 'query'"):
        model.encode(["a"], task="querry")
    with pytest.raises(CheckpointError, match="no dense output"):
        model.encode(["a"], outputs="dense")
    with pytest.raises(InputError, match=r"a vector for each token.*Leave pooling out"):
        tercet.load(tmp_path, pooling="mean")


@pytest.mark.parametrize("query", [False, True])
def test_tercet_embed_takes_texts_as_documents_or_as_queries(tmp_path, query):
    model = load(tmp_path / "model")
    texts = list(late_cases.TEXTS[1:3])
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    options = ["--model", str(tmp_path / "model"), "--outputs", "multivector", "--precision", "float32"]
    options += ["--device", "cpu", "-o", str(tmp_path / "out.npz"), *(["--query"] if query else [])]
    assert main(["embed", str(tmp_path / "texts.txt"), *options]) == 0
    encode = model.encode_query if query else model.encode_document
    with np.load(tmp_path / "out.npz") as arrays:
        rows = next(arrays[name] for name in arrays if arrays[name].shape[-1:] == (late_cases.WIDTH,))
    np.testing.assert_allclose(rows, encode(texts).multivector.vectors, rtol=1e-5, atol=1e-6)


def test_provenance_tells_what_late_interaction_does_to_a_text(tmp_path):
    model = load(tmp_path)
    said = model.provenance(task="query")
    assert json.loads(json.dumps(said))["late"]["markers"] == {"query": "[Q] ", "document": "[D] "}
    assert said["task"] == "query"
    assert said["max_length"] == 16
