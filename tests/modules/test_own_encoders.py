"""Routes with encoders of their own, and SparseStaticEmbedding: plans, copies, and what is refused."""

import json
import pickle
from functools import partial

import numpy as np
import pytest
import torch

import tercet
import tiny_routes
import tiny_sparse
from recorder import own_encoders
from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.writer import save_checkpoint
from tercet.cli.main import main
from tercet.errors import CheckpointError, InputError
from tercet.evaluation.activation_ranges import activation_ranges
from tercet.evaluation.samples import sample_batches
from tercet.precision.dtype import DType
from tiny_modules import normalize, pooling, write_stack

TEXTS = own_encoders.TEXTS
ROUTED = [name for name, case in own_encoders.CASES.items() if case.routes]


def load(folder, **options):
    return tercet.load(folder, **{"precision": "float32", "device": "cpu", **options})


def rows(found):
    if found.sparse is None:
        return found.dense.numpy()
    made = np.zeros((len(found), found.sparse.vocabulary))
    made[found.sparse.rows, found.sparse.token_ids.long()] = found.sparse.weights
    return made


def edit(path, /, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("name", ROUTED)
def test_a_text_takes_its_own_encoder_alone_in_a_stream_from_a_copy_and_from_a_pickle(name, tmp_path):
    folder = own_encoders.write(tmp_path / "model", name)
    model = load(folder)
    copies = [load(save_checkpoint(open_checkpoint(folder), tmp_path / "copy"))]
    copies.append(pickle.loads(pickle.dumps(model)))
    for task in own_encoders.tasks(name):
        together = rows(model.encode(TEXTS, task=task))
        alone = [rows(model.encode(text, task=task)) for text in TEXTS]
        np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5, atol=1e-5)
        streamed = [rows(part) for part in model.stream(TEXTS, task=task)]
        np.testing.assert_array_equal(together, np.concatenate(streamed))
        for copy in copies:
            np.testing.assert_array_equal(together, rows(copy.encode(TEXTS, task=task)))


def test_each_route_has_the_length_and_the_tokens_of_its_own_tokenizer(tmp_path):
    model = load(own_encoders.write(tmp_path, "two encoders"))
    query, document = model.encode_query(TEXTS), model.encode_document(TEXTS)
    assert query.truncated.tolist() == [len(text) > 100 for text in TEXTS]
    assert query.num_tokens.max() == 24 < document.num_tokens.max()
    assert model.provenance(task="query")["architecture"] == "bert"
    assert model.provenance(task="document")["architecture"] == "roberta"


def test_the_plan_says_what_each_encoder_takes(tmp_path):
    checkpoint = open_checkpoint(own_encoders.write(tmp_path, "inference-free"))
    footprint = checkpoint.footprint()
    [(route, other)] = footprint.others.items()
    assert (route, other.head_numbers, other.layers) == ("Route 'query'", 220, 0)
    page = str(tercet.plan(checkpoint.folder, precision="float32", device="cpu"))
    assert "Route 'query': weights" in page
    assert "Route 'query' has no encoder, but a weight for each of 220 tokens." in page
    alone = tercet.plan(tiny_routes.write_token_weights(tmp_path / "alone"), device="cpu")
    assert "There is no encoder: a weight for each of 220 tokens is all." in str(alone).replace("\n    ", " ")


def test_every_weight_counts_in_the_hash(tmp_path):
    hashes = set()
    for seed in ("one", "other"):
        query = partial(tiny_routes.write_token_weights, listed=True, seed=seed)
        folder = tiny_routes.join(tmp_path / seed, {"query": query, "document": tiny_sparse.write_splade})
        hashes.add(open_checkpoint(folder).weights_hash())
    assert len(hashes) == 2


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "int8"])
def test_weights_of_tokens_are_exact_whatever_the_encoder_beside_them_computes_in(precision, tmp_path):
    folder = own_encoders.write(tmp_path, "inference-free")
    found = load(folder, precision=precision).encode_query(TEXTS)
    np.testing.assert_array_equal(rows(found), rows(load(folder).encode_query(TEXTS)))


def test_a_copy_in_another_dtype_keeps_what_json_lists(tmp_path):
    name = "inference-free, at the root and by token"
    folder = own_encoders.write(tmp_path / "model", name)
    copy = save_checkpoint(open_checkpoint(folder), tmp_path / "copy", DType.FLOAT16)
    assert not (copy / "query_0_SparseStaticEmbedding" / "model.safetensors").exists()
    np.testing.assert_array_equal(
        rows(load(copy).encode_query(TEXTS)), rows(load(folder).encode_query(TEXTS))
    )


def test_embed_takes_the_route_of_queries_or_that_of_documents(tmp_path):
    folder = own_encoders.write(tmp_path / "model", "splade and splade")
    (tmp_path / "texts.txt").write_text("the river\nthe city of the bridge\n")
    model = load(folder)
    for options, task in ((["--query"], "query"), ([], "document")):
        out = tmp_path / f"{task}.jsonl"
        arguments = ["embed", str(tmp_path / "texts.txt"), "-m", str(folder), "-o", str(out), *options]
        assert main([*arguments, "--precision", "float32", "--device", "cpu"]) == 0
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        found = [line["sparse"] for line in lines if "sparse" in line]
        expected = model.encode(["the river", "the city of the bridge"], task=task).sparse
        assert [len(one["indices"]) for one in found] == expected.lengths.tolist()


def test_a_token_that_the_vocabulary_does_not_have_is_left_out_and_said(tmp_path):
    folder = tiny_routes.write_token_weights(tmp_path, listed=True)
    before = load(folder).encode("€ river").sparse
    edit(folder / "idf.json", nowhere=7.5)
    assert any(
        "1 tokens that the vocabulary does not have ('nowhere')" in n for n in open_checkpoint(folder).notes
    )
    assert load(folder).encode("€ river").sparse.allclose(before)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"path": "elsewhere.json"}, r"config.json names 'elsewhere.json', which is neither .* Fetch"),
        ({"path": 3}, "'path' is 3, expected the name of a JSON file"),
        ({"path": "../idf.json"}, "leaves the model's folder"),
        ({"frosen": True}, "'frosen' is not known.*frozen"),
    ],
)
def test_settings_of_token_weights_that_cannot_be_are_refused(changes, says, tmp_path):
    folder = tiny_routes.write_token_weights(tmp_path, listed=True)
    edit(folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=says):
        open_checkpoint(folder)


@pytest.mark.parametrize("weight", ["7", True, None, float("inf"), [1.0]])
def test_a_weight_that_is_no_number_is_refused(weight, tmp_path):
    folder = tiny_routes.write_token_weights(tmp_path, listed=True)
    edit(folder / "idf.json", river=weight)
    with pytest.raises(CheckpointError, match=r"idf.json: the weight of 'river' is .*expected a number"):
        open_checkpoint(folder)


def test_weights_that_are_no_vector_and_a_missing_tokenizer_are_refused(tmp_path):
    from safetensors.torch import save_file

    folder = tiny_routes.write_token_weights(tmp_path)
    save_file({"weight": torch.ones(220, 2)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"'weight' \(220, 2\) in float32; a SparseStaticEmbedding has"):
        open_checkpoint(folder)
    (folder / "tokenizer.json").unlink()
    save_file({"weight": torch.ones(220)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"tokenizer.json is missing.*copy the tokenizer"):
        open_checkpoint(folder)


def test_pooling_of_token_weights_and_a_module_behind_them_are_refused(tmp_path):
    folder = tiny_routes.write_token_weights(tmp_path)
    with pytest.raises(InputError, match=r"pooling='mean': .* no vectors to pool. Leave pooling out"):
        open_checkpoint(folder, pooling="mean")
    path = folder / "modules.json"
    more = {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"}
    path.write_text(json.dumps([*json.loads(path.read_text()), more]))
    with pytest.raises(
        CheckpointError, match=r"1_Normalize stands behind the root \(SparseStaticEmbedding\)"
    ):
        open_checkpoint(folder)


def test_routes_to_sparse_and_to_dense_vectors_are_refused(tmp_path):
    dense = partial(write_stack, parts=(pooling(), normalize()))
    folder = tiny_routes.join(tmp_path, {"query": tiny_routes.write_token_weights, "document": dense})
    with pytest.raises(
        CheckpointError, match=r"'query' ends in .* sparse vectors, the route 'document' makes dense"
    ):
        open_checkpoint(folder)


def test_features_of_a_sparse_auto_encoder_count_in_the_memory(tmp_path):
    small, large = (
        tercet.plan(
            tiny_sparse.write_csr(tmp_path / str(width), width=width),
            precision="float32",
            device="cpu",
            token_budget=2048,
        )
        for width in (48, 4096)
    )
    batch = "one batch of 2,048 tokens"
    found = dict(large.memory)[batch] - dict(small.memory)[batch]
    assert found == pytest.approx(4 * (4096 - 48) * 256, rel=0.01)


def test_activations_are_those_of_the_largest_encoder(tmp_path):
    checkpoint = open_checkpoint(own_encoders.write(tmp_path, "static embeddings and an encoder"))
    found = activation_ranges(checkpoint, sample_batches(checkpoint, ["the river", "a bridge"]))
    assert {"layer 0", "layer 1"} <= {layer.layer for layer in found.layers}
