"""What users of FlagEmbedding 1.4.2 meet when they encode and score, each as something that works here.

Each test says in its first line what happens there; docs/migration.md has the same, class by class. What they
meet in training is not of these classes.
"""

import json
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tercet
import tiny
import tiny_reranker
from tercet.compat import BGEM3FlagModel, FlagAutoModel, FlagAutoReranker, FlagModel, FlagReranker
from tercet.errors import CheckpointError, InputError, TercetError

TEXTS = ["the cat is on the bridge", "", "Paris is the city of the river", "a long list " * 9]
ALL = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}
PAIRS = [("the cat", "a cat is on the bridge"), ("the river", "a"), ("", "Paris"), ("a list", "list " * 40)]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return str(tiny.write_checkpoint(tmp_path_factory.mktemp("flag") / "bert", "bert"))


@pytest.fixture(scope="module")
def m3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flag") / "m3"
    return str(tiny.write_checkpoint(folder, "xlm-roberta", layout="bge-m3", file="bin"))


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    return str(tiny_reranker.write_reranker(tmp_path_factory.mktemp("flag") / "reranker"))


def exact(folder, kind=BGEM3FlagModel, **options):
    return kind(folder, use_fp16=False, devices="cpu", **options)


def counting(engine, monkeypatch):
    """The texts of each forward, a list that grows."""
    seen, forward = [], engine.forward
    monkeypatch.setattr(engine, "forward", lambda batch: (seen.append(len(batch)), forward(batch))[1])
    return seen


# Precision


@pytest.mark.parametrize(("flag", "rounded"), [("use_fp16", torch.float16), ("use_bf16", torch.bfloat16)])
def test_a_cpu_does_not_round_weights_that_it_computes_with_in_float32(flag, rounded, bert, tmp_path):
    """There: weights are rounded to 16 bits and computed with in float32: the loss without the gain."""
    true = exact(bert, FlagModel).encode(TEXTS)
    theirs = exact(str(tiny.write_checkpoint(tmp_path, "bert", dtype=str(rounded)[6:])), FlagModel).encode(
        TEXTS
    )
    ours = FlagModel(bert, devices="cpu", **{flag: True}).encode(TEXTS)
    assert np.abs(theirs - true).max() > 1e-5
    assert (1 - (ours * true).sum(axis=1)).max() <= 1e-5


def test_a_cpu_with_a_number_is_a_cpu(bert):
    """There: "cpu:0" is not "cpu", and computes in float16 on it."""
    found = FlagModel(bert, devices="cpu:0").encode(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, FlagModel(bert, devices="cpu").encode(TEXTS))


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_a_reranker_without_flags_is_in_float32_whatever_is_stored(stored, tmp_path):
    """There, on transformers 5: in the dtype of the file."""
    model = FlagReranker(str(tiny_reranker.write_reranker(tmp_path, dtype=stored)), devices="cpu")
    precision = model.reranker.plan.precision
    assert str(precision.compute) == str(precision.heads) == "float32"
    assert all(type(score) is float for score in model.compute_score(PAIRS))


@pytest.mark.parametrize("make", [FlagReranker, FlagAutoReranker.from_finetuned])
def test_a_reranker_does_not_swallow_use_bf16(make, reranker):
    """There: no effect, and no word of it."""
    with pytest.raises(TypeError, match="use_bf16"):
        make(reranker, use_bf16=True, devices="cpu")


@pytest.mark.parametrize("flags", [{}, {"use_fp16": False}, {"use_bf16": True}])
def test_lexical_weights_of_every_precision_go_into_json(flags, m3):
    """There: NumPy scalars, on a GPU of float16, which JSON refuses."""
    found = BGEM3FlagModel(m3, devices="cpu", **flags).encode(TEXTS, return_sparse=True)["lexical_weights"]
    assert json.loads(json.dumps(found)) == found


def test_lexical_scores_are_summed_wide_and_are_floats(m3):
    """There: sums in float16 stop growing, and nothing in common scores an int."""
    weights = {str(token): np.float16(0.1) for token in range(9000)}
    score = exact(m3).compute_lexical_matching_score
    assert score(weights, weights) == pytest.approx(9000 * float(np.float16(0.1)) ** 2)
    assert type(score({"1": 0.5}, {"2": 0.5})) is float


def test_overflow_gives_the_vectors_of_float32(tmp_path):
    """There: infinite in float16, or hidden as a number that is none."""
    folder = tiny.write_checkpoint(tmp_path, "bert", config={"torch_dtype": "float16"})
    path = folder / "model.safetensors"
    large = {name: value * (4e4 if "intermediate" in name else 1) for name, value in load_file(path).items()}
    save_file(large, path, metadata={"format": "pt"})
    found = tercet.load(folder, precision="float16", device="cpu", pooling="cls").encode(TEXTS)
    assert bool(found.recomputed.any())
    raw = exact(str(folder), FlagModel, normalize_embeddings=False)
    np.testing.assert_allclose(found.numpy().dense, raw.encode(TEXTS), atol=1e-5)


# Calls


def test_each_text_is_computed_once(m3, reranker, monkeypatch):
    """There: the first batch goes through the model twice, in every call."""
    model, scorer = exact(m3), FlagReranker(reranker, devices="cpu")
    seen = counting(model.embedder._engine, monkeypatch)
    model.encode(TEXTS * 3, batch_size=4, **ALL)
    model.encode(TEXTS[0])
    assert sum(seen) == 13
    seen = counting(scorer.reranker._engine, monkeypatch)
    scorer.compute_score(PAIRS)
    assert sum(seen) == len(PAIRS)


def test_an_error_comes_as_it_is_and_at_once(m3, reranker, monkeypatch):
    """There: tried again 17 times, then AttributeError: 'list' object has no attribute 'keys'."""
    for holder, call, given in (
        (exact(m3), "embedder", TEXTS),
        (FlagReranker(reranker, devices="cpu"), "reranker", PAIRS),
    ):
        tried = []

        def broken(batch, tried=tried):
            tried.append(batch)
            raise RuntimeError("boom")

        monkeypatch.setattr(getattr(holder, call)._engine, "forward", broken)
        with pytest.raises(RuntimeError, match="boom"):
            (holder.encode if call == "embedder" else holder.compute_score)(given)
        assert len(tried) == 1


@pytest.mark.parametrize("method", ["encode", "encode_queries", "encode_corpus"])
def test_no_text_has_no_vectors_of_the_right_width(method, bert, m3, reranker):
    """There: that AttributeError; no pairs are an IndexError."""
    assert getattr(exact(bert, FlagModel), method)([]).shape == (0, 32)
    found = getattr(exact(m3), method)([], **ALL)
    assert found["dense_vecs"].shape == (0, 32)
    assert found["lexical_weights"] == found["colbert_vecs"] == []
    assert exact(m3).compute_score([]) == FlagReranker(reranker, devices="cpu").compute_score([]) == []


def test_a_pair_scores_the_same_in_any_company(tmp_path):
    """There: beside a longer passage, each best match below 0 becomes 0."""
    found_below = False
    for seed in range(4):
        folder = tiny.write_checkpoint(
            tmp_path / str(seed), "xlm-roberta", layout="bge-m3", seed=seed, colbert_dim=2
        )
        model = exact(str(folder))
        together = model.compute_score(PAIRS)
        for place, pair in enumerate(PAIRS):
            alone = model.compute_score(pair)
            for key, value in alone.items():
                assert together[key][place] == pytest.approx(value, rel=1e-5, abs=1e-5)
            found_below |= alone["colbert"] < -0.01
    assert found_below, "no score is below 0: the test would see nothing"


def test_no_token_is_lost_when_two_read_alike(m3):
    """There: the last of them overwrites the others."""
    model = exact(m3)
    at = {piece: str(model.tokenizer.token_to_id(piece)) for piece in ("▁a", "a", "▁b", "b")}
    weights = {at["▁a"]: 0.5, at["a"]: 0.2} if at["▁a"] != at["a"] else {}
    found = model.convert_id_to_token(weights)
    assert len(weights) == len(found) == 2
    assert sorted(found.values()) == [0.2, 0.5]


@pytest.mark.parametrize(("there", "absent"), [("sparse", "colbert"), ("colbert", "sparse")])
def test_a_head_that_is_not_there_is_an_error_and_not_random(there, absent, tmp_path):
    """There: both heads are random numbers, and an INFO line says so."""
    folder = tiny.write_checkpoint(tmp_path, "xlm-roberta", layout="bge-m3", m3_heads=(there,))
    model = exact(str(folder))
    key = {"sparse": "return_sparse", "colbert": "return_colbert_vecs"}
    first, again = (exact(str(folder)).encode(TEXTS[0], **{key[there]: True}) for _ in range(2))
    assert str(first) == str(again)
    with pytest.raises(CheckpointError, match=rf"{absent}_linear\.pt"):
        model.encode(TEXTS, **{key[absent]: True})


def test_without_an_instruction_nothing_stands_before_a_text(bert, m3):
    """There, where texts are made ready for training: "None" stands before the query."""
    for model in (exact(bert, FlagModel), exact(m3)):
        plain, query, passage = (
            np.asarray(found["dense_vecs"] if isinstance(found, dict) else found)
            for found in (model.encode(TEXTS), model.encode_queries(TEXTS), model.encode_corpus(TEXTS))
        )
        np.testing.assert_array_equal(plain, query)
        np.testing.assert_array_equal(plain, passage)


def test_an_instruction_of_a_call_needs_no_format(bert):
    """There: a TypeError from within."""
    model = exact(bert, FlagModel)
    np.testing.assert_array_equal(
        model.encode(TEXTS, instruction="find "), model.encode([f"find {text}" for text in TEXTS])
    )


def test_a_length_beyond_the_position_table_is_cut_to_it(bert):
    """There: that AttributeError."""
    model = exact(bert, FlagModel)
    np.testing.assert_array_equal(
        model.encode("the cat " * 200, max_length=4000), model.encode("the cat " * 200, max_length=66)
    )


def test_threads_share_a_model(m3):
    """There: 'Already borrowed', since the tokenizer is set anew by each call."""
    model, failed = exact(m3), []
    expected = {length: model.encode(TEXTS, max_length=length)["dense_vecs"] for length in (5, 9, 33)}

    def work(length):
        for _ in range(5):
            found = model.encode(TEXTS, max_length=length)["dense_vecs"]
            if np.abs(found - expected[length]).max() > 1e-6:
                failed.append(length)

    threads = [threading.Thread(target=work, args=(length,)) for length in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_nothing_is_printed(m3, reranker, capfd):
    """There: progress bars that only a change of the source takes away."""
    exact(m3).encode(TEXTS * 300, **ALL)
    FlagReranker(reranker, devices="cpu").compute_score(PAIRS * 50)
    assert capfd.readouterr() == ("", "")


# Loading


@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        (FlagModel, "bert"),
        (BGEM3FlagModel, "m3"),
        (FlagReranker, "reranker"),
        (FlagAutoModel.from_finetuned, "m3"),
        (FlagAutoReranker.from_finetuned, "reranker"),
    ],
)
@pytest.mark.parametrize("keyword", ["device", "embedder_batch_size"])
def test_a_keyword_that_is_not_there_is_a_type_error(kind, folder, keyword, request):
    """There: set as an attribute, without effect; `device` is the name that it had before 1.3."""
    with pytest.raises(TypeError, match=keyword):
        kind(request.getfixturevalue(folder), **{keyword: "cpu"})


@pytest.mark.parametrize("ending", ["", "/"])
@pytest.mark.parametrize("name", ["our-tuned-model", "checkpoint-1000"])
def test_a_fine_tuned_folder_is_loaded_by_what_it_holds(name, ending, tmp_path):
    """There: a folder that is not called like a published model, or ends in a slash, is a ValueError."""
    tiny.write_checkpoint(tmp_path / name, "xlm-roberta", layout="bge-m3")
    tiny_reranker.write_reranker(tmp_path / "reranker" / name)
    model = FlagAutoModel.from_finetuned(f"{tmp_path}/{name}{ending}", devices="cpu")
    assert type(model) is BGEM3FlagModel
    scorer = FlagAutoReranker.from_finetuned(f"{tmp_path}/reranker/{name}{ending}", devices="cpu")
    assert len(scorer.compute_score(PAIRS)) == len(PAIRS)


def test_a_pooling_that_is_not_there_fails_before_anything_is_encoded(bert):
    """There: that AttributeError, when the first text is encoded."""
    with pytest.raises(InputError, match="pooling"):
        FlagModel(bert, pooling_method="centre", devices="cpu")


@pytest.mark.parametrize("devices", [["cuda:0", "cuda:1"], "cuda:99", ["cpu", "nowhere"]])
def test_a_device_that_cannot_be_is_an_error_and_no_caller_waits_for_ever(devices, bert):
    """There: an error in one process of a pool leaves the caller waiting."""
    with pytest.raises(TercetError):
        FlagModel(bert, devices=devices).encode(TEXTS)


def test_a_tuned_m3_without_the_files_of_sentence_transformers_keeps_its_pooling(m3, tmp_path):
    """There: what training saves does not say how to pool, and sentence-transformers averages it."""
    folder = tiny.write_checkpoint(tmp_path, "xlm-roberta", layout="bge-m3", file="bin", modules_json=False)
    found = tercet.load(folder, device="cpu", precision="float32").encode(TEXTS).numpy().dense
    np.testing.assert_allclose(found, exact(m3).encode(TEXTS)["dense_vecs"], atol=1e-6)


@pytest.mark.parametrize("method", ["normalize", "plain"])
def test_one_pair_and_several_are_scored_alike(method, reranker):
    """There: a list on one device, an array on several; here always a list of Python's floats."""
    model = FlagReranker(reranker, devices="cpu", normalize=method == "normalize")
    [alone] = model.compute_score(PAIRS[0])
    several = model.compute_score(PAIRS)
    assert type(alone) is type(several[0]) is float
    assert several[0] == pytest.approx(alone, rel=1e-5, abs=1e-6)
