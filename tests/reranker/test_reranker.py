import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tercet
import tiny_reranker
from recorder.rerankers import PAIRS
from tercet.errors import CheckpointError, InputError, NonFiniteError, UnknownNameError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_reranker.write_reranker(tmp_path_factory.mktemp("rerankers") / "bert", "bert")


@pytest.fixture(scope="module")
def model(folder):
    return tercet.load_reranker(folder, precision="float32", device="cpu")


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta", "distilbert", "electra", "mpnet"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_pair_scores_the_same_alone_and_among_others(architecture, precision, tmp_path):
    made = tiny_reranker.write_reranker(tmp_path, architecture, activation="torch.nn.Identity")
    model = tercet.load_reranker(made, precision=precision, device="cpu", token_budget=70)
    together = model.score(PAIRS)
    alone = torch.cat([model.score([pair]) for pair in PAIRS])
    # One row of a product is summed in another order than many, and bfloat16 rounds that.
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5 if precision == "float32" else 4e-2)
    order = [3, 8, 0, 7, 1, 6, 2, 5, 4]
    mixed = model.score([PAIRS[place] for place in order])
    torch.testing.assert_close(mixed, together[order], rtol=0, atol=1e-5 if precision == "float32" else 4e-2)


def test_pairs_come_from_any_iterable_and_over_many_windows(model):
    once = model.score(PAIRS)
    many = model.score(list(pair) for _ in range(150) for pair in PAIRS)
    assert many.shape == (150 * len(PAIRS),)
    torch.testing.assert_close(many, once.repeat(150), rtol=0, atol=1e-5)
    torch.testing.assert_close(model.score(np.array(PAIRS)), once, rtol=0, atol=1e-5)
    assert model.score(PAIRS[0]).tolist() == model.score([PAIRS[0]]).tolist()


def test_no_pairs_give_no_scores(model, tmp_path):
    assert model.score([]).shape == (0,)
    assert model.score([]).dtype == torch.float32
    assert model.rank("a", []) == []
    three = tercet.load_reranker(tiny_reranker.write_reranker(tmp_path, labels=3), device="cpu")
    assert three.score([]).shape == (0, 3)
    assert three.score(PAIRS).shape == (len(PAIRS), 3)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("a query", r"pairs is a str.*rank\(query, documents\)"),
        ({"a": "b"}, "pairs is a dict"),
        (3, "of type int"),
        (["a", "b", "c"], "pair 0 is 'a'; it must be two strings"),
        ([("a", "b"), ("a",)], "pair 1 has 1 parts"),
        ([("a", "b", "c")], "pair 0 has 3 parts"),
        ([("a", None)], "pair 0: the document is of type NoneType"),
        ([("a", "b"), (3, "b")], "pair 1: the query is of type int"),
        ([("a", "\ud800")], "pair 0: the document is not valid Unicode"),
    ],
)
def test_what_is_no_pair_is_named(pairs, message, model):
    with pytest.raises(InputError, match=message):
        model.score(pairs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": "longest"}, "truncation is 'longest'. Did you mean 'longest_first'"),
        ({"query_max_length": 3}, "belongs to truncation='only_second'"),
        ({"truncation": "only_second", "query_max_length": 0}, "query_max_length is 0"),
        ({"max_length": 4}, "max_length=4 leaves no room"),
        ({"activation": "os.system"}, "'os.system' is not one of torch.nn's"),
        ({"activation": torch.nn.Sigmoid()}, "Pass a name of torch.nn"),
        ({"prompt_name": "query"}, "has no prompt named 'query'"),
        ({"prompt": 3}, "prompt is of type int"),
    ],
)
def test_an_option_that_cannot_be_is_named(options, message, model):
    with pytest.raises(InputError, match=message):
        model.score(PAIRS, **options)


def test_unknown_keywords_are_refused_with_the_nearest(model, folder):
    with pytest.raises(UnknownNameError, match="Did you mean 'max_length'"):
        model.score(PAIRS, max_lenght=3)
    with pytest.raises(UnknownNameError, match="Did you mean 'top_k'"):
        model.rank("a", ["b"], topk=3)
    with pytest.raises(UnknownNameError, match="Did you mean 'precision'"):
        tercet.load_reranker(folder, precison="float32")


def test_documents_are_ranked_by_score_and_equal_ones_stay_in_order(model):
    documents = ["the cat", "a river", "the cat", "", "a river"]
    scores = model.score([("which river", text) for text in documents]).tolist()
    ranked = model.rank("which river", iter(documents))
    # torch's engine rounds a pair otherwise beside others, and in rank() equal texts have one score.
    assert [one.score for one in ranked] == pytest.approx(sorted(scores, reverse=True), abs=1e-6)
    assert [one.document for one in ranked] == [documents[one.index] for one in ranked]
    for text in ("the cat", "a river"):
        places = [one.index for one in ranked if one.document == text]
        assert len(places) == 2
    assert model.rank("which river", documents, 2) == ranked[:2]
    assert len(model.rank("which river", documents, top_k=99)) == 5
    same = model.rank("which river", ["the cat"] * 4)
    assert [one.index for one in same] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", ["b"], 0), "top_k is 0"),
        ((["a"], ["b"]), "query is of type list"),
        (("a", "b"), "documents is a str"),
        (("a", {"b", "c"}), "documents is a set"),
        (("a", ["b", None]), "pair 1: the document is of type NoneType"),
        (("a", ["b", "b", "\ud800"]), "pair 2"),
    ],
)
def test_what_cannot_be_ranked_is_named(arguments, message, model):
    with pytest.raises(InputError, match=message):
        model.rank(*arguments)


def test_a_model_of_several_labels_does_not_rank(tmp_path):
    model = tercet.load_reranker(tiny_reranker.write_reranker(tmp_path, labels=3), device="cpu")
    with pytest.raises(InputError, match=r"gives 3 scores a pair.*score\(\)"):
        model.rank("a", ["b"])


def test_token_types_tell_query_and_document_apart(folder, tmp_path):
    same = tiny_reranker.write_reranker(tmp_path, "bert", types=False)
    typed, plain = (tercet.load_reranker(one, device="cpu", precision="float32") for one in (folder, same))
    assert (typed.score(PAIRS) - plain.score(PAIRS)).abs().max() > 1e-3


def test_code_that_a_checkpoint_names_is_never_run(tmp_path):
    made = tiny_reranker.write_reranker(tmp_path, activation="subprocess.Popen")
    with pytest.raises(CheckpointError, match=r"'subprocess\.Popen'.*activation='Identity'"):
        tercet.load_reranker(made, device="cpu")
    model = tercet.load_reranker(made, device="cpu", activation="Identity")
    assert model.activation == "Identity"
    torch.testing.assert_close(model.score(PAIRS, activation="Sigmoid"), model.score(PAIRS).sigmoid())


def test_a_body_that_overflows_is_computed_again_in_float32_with_its_token_types(tmp_path, caplog):
    made = tiny_reranker.write_reranker(tmp_path, "bert", activation="torch.nn.Identity")
    path = made / "model.safetensors"
    tensors = load_file(path)
    save_file({n: t * 4e4 if "intermediate.dense" in n else t for n, t in tensors.items()}, path)
    found = tercet.load_reranker(made, precision="float16", device="cpu").score(PAIRS)
    exact = tercet.load_reranker(made, precision="float32", device="cpu").score(PAIRS)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-5)
    assert f"{len(PAIRS)} pairs left the range of float16" in caplog.text


@pytest.mark.parametrize(
    ("part", "message"),
    [("classifier.weight", r"pair 0 gives a score .*head"), ("output.dense.weight", r"pair 0 gives values")],
)
def test_scores_that_are_not_finite_in_float32_are_an_error(part, message, tmp_path):
    made = tiny_reranker.write_reranker(tmp_path, "bert", activation="torch.nn.Identity")
    path = made / "model.safetensors"
    tensors = load_file(path)
    save_file({n: t * float("inf") if n.endswith(part) else t for n, t in tensors.items()}, path)
    # By torch; kernels of our own refuse such weights when they pack them.
    model = tercet.load_reranker(made, precision="float64", device="cpu")
    with pytest.raises(NonFiniteError, match=message):
        model.score(PAIRS)


def test_a_pickled_reranker_scores_alike(model):
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again.score(PAIRS), model.score(PAIRS))
    assert repr(again) == repr(model)
    assert "1 score; float32" in repr(model)


def test_threads_share_a_reranker(model):
    expected = model.score(PAIRS)
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda _: model.score(PAIRS), range(8)):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_pairs_that_were_cut_are_counted_and_told_aloud_once(folder, caplog):
    caplog.set_level(logging.INFO, logger="tercet")
    model = tercet.load_reranker(folder, precision="float32", device="cpu")
    for _ in range(2):
        model.score(PAIRS, max_length=24)
    told = [one for one in caplog.records if "4 of 9 pairs were longer than 24 tokens" in one.getMessage()]
    assert [one.levelname for one in told] == ["WARNING", "INFO"]


def test_one_hash_stands_for_head_and_encoder(folder, model, tmp_path):
    other = tercet.load_reranker(tiny_reranker.write_reranker(tmp_path / "a", "bert", seed=1))
    same = tercet.load_reranker(tiny_reranker.write_reranker(tmp_path / "b", "bert"))
    assert model.checkpoint.weights_hash() == same.checkpoint.weights_hash()
    assert model.checkpoint.weights_hash() != other.checkpoint.weights_hash()
    assert model.checkpoint.weight_files() == (folder / "model.safetensors",)


def test_a_saved_plan_is_replayed_and_contradicted_by_nothing(model, folder, tmp_path):
    path = tmp_path / "plan.json"
    model.plan.save(path)
    again = tercet.load_reranker(folder, plan=path)
    assert again.plan.scheme == model.plan.scheme
    assert torch.equal(again.score(PAIRS), model.score(PAIRS))
    with pytest.raises(InputError, match="precision and plan were both given"):
        tercet.load_reranker(folder, plan=path, precision="float16")


def test_the_longest_pair_is_never_longer_than_the_positions(folder, model, caplog):
    assert model.max_length == 66
    long = tercet.load_reranker(folder, max_length=500, device="cpu", precision="float32")
    assert long.max_length == 66
    assert "has positions for 66 tokens" in caplog.text
    with pytest.raises(InputError, match="max_length is 0"):
        tercet.load_reranker(folder, max_length=0)
