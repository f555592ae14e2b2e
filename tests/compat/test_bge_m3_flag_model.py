"""BGEM3FlagModel against what FlagEmbedding promises; what it gives to the digit is in tests/twins."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import tercet
import tiny
from tercet.compat import BGEM3FlagModel
from tercet.errors import CheckpointError, InputError
from tercet.scoring import score_pairs

TEXTS = ["the cat is on the bridge", "", "Paris <mask> is the city of the river", "a long list " * 9]
ALL = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}
KEYS = ["dense_vecs", "lexical_weights", "colbert_vecs"]
SCORES = ["colbert", "sparse", "dense", "sparse+dense", "colbert+sparse+dense"]
PAIRS = [("the cat", "a cat and a dog"), ("read a csv file", "the river"), ("", "sun"), ("the cat", "cat")]


@pytest.fixture(scope="module")
def model(tiny_m3):
    return BGEM3FlagModel(str(tiny_m3), use_fp16=False, devices="cpu")


@pytest.fixture(scope="module")
def embedder(tiny_m3):
    return tercet.load(tiny_m3, precision="float32", device="cpu")


def forwards(model, monkeypatch):
    """A list that grows with each forward of the model."""
    seen, forward = [], model.embedder._engine.forward
    monkeypatch.setattr(
        model.embedder._engine, "forward", lambda batch: (seen.append(len(batch)), forward(batch))[1]
    )
    return seen


def test_one_text_comes_back_alone_and_several_in_rows_and_lists(model):
    one, several = model.encode(TEXTS[0], **ALL), model.encode(TEXTS, **ALL)
    assert list(one) == list(several) == KEYS
    assert one["dense_vecs"].shape == (32,)
    assert several["dense_vecs"].shape == (4, 32)
    assert isinstance(one["lexical_weights"], dict)
    assert isinstance(several["lexical_weights"], list)
    assert one["colbert_vecs"].ndim == 2
    assert [rows.shape[1] for rows in several["colbert_vecs"]] == [32] * 4
    np.testing.assert_allclose(one["dense_vecs"], several["dense_vecs"][0], rtol=0, atol=1e-6)


def test_only_dense_vectors_come_without_being_asked_for_and_the_other_keys_hold_none(model):
    found = model.encode(TEXTS)
    assert list(found) == KEYS
    assert found["dense_vecs"].dtype == np.float32
    assert found["lexical_weights"] is None
    assert found["colbert_vecs"] is None
    with pytest.raises(InputError, match="return_sparse"):
        model.encode(TEXTS, return_dense=False)


def test_what_the_object_returns_is_what_a_call_does_not_say(tiny_m3):
    model = BGEM3FlagModel(str(tiny_m3), devices="cpu", return_dense=False, return_sparse=True)
    assert model.encode("a")["dense_vecs"] is None
    assert model.encode("the cat")["lexical_weights"]
    assert model.encode("a", return_dense=True, return_sparse=False)["lexical_weights"] is None


def test_the_numbers_are_those_of_the_embedder(model, embedder):
    found = model.encode(TEXTS, max_length=20, **ALL)
    ours = embedder.encode(TEXTS, outputs=("dense", "sparse", "multivector"), max_length=20)
    np.testing.assert_array_equal(found["dense_vecs"], ours.numpy().dense)
    weights = [{int(key): value for key, value in text.items()} for text in found["lexical_weights"]]
    assert weights == ours.sparse.to_dicts()
    np.testing.assert_array_equal(np.concatenate(found["colbert_vecs"]), ours.numpy().multivector.vectors)


def test_a_multi_vector_has_a_row_for_each_token_but_the_first(model):
    found = model.encode(TEXTS, **ALL)
    lengths = model.tokenizer.encode(TEXTS, max_length=64).lengths
    assert [len(rows) for rows in found["colbert_vecs"]] == [length - 1 for length in lengths]
    assert found["colbert_vecs"][1].shape == (1, 32)
    assert found["lexical_weights"][1] == {}


def test_lexical_weights_are_above_zero_under_text_keys_and_go_into_json(model):
    found = model.encode(TEXTS, return_sparse=True)["lexical_weights"]
    assert json.loads(json.dumps(found)) == found
    assert any(found)
    for text in found:
        assert all(
            isinstance(key, str) and isinstance(value, float) and value > 0 for key, value in text.items()
        )
        assert text["not there"] == 0


def test_no_text_gives_arrays_and_lists_of_no_text(model):
    found = model.encode([], **ALL)
    assert found["dense_vecs"].shape == (0, 32)
    assert found["lexical_weights"] == found["colbert_vecs"] == []


def test_truncated_vectors_are_those_cut_and_normalised_again(tiny_m3, model):
    short = BGEM3FlagModel(str(tiny_m3), use_fp16=False, devices="cpu", truncate_dim=8).encode(TEXTS, **ALL)
    whole = model.encode(TEXTS, **ALL)
    pairs = [(short["dense_vecs"], whole["dense_vecs"])]
    pairs += list(zip(short["colbert_vecs"], whole["colbert_vecs"], strict=True))
    for found, long in pairs:
        cut = long[:, :8] / np.linalg.norm(long[:, :8], axis=1, keepdims=True)
        np.testing.assert_allclose(found, cut, rtol=0, atol=1e-6)


def test_vectors_have_unit_length_only_where_asked(tiny_m3, model):
    raw = BGEM3FlagModel(str(tiny_m3), False, use_fp16=False, devices="cpu").encode(TEXTS, **ALL)
    unit = model.encode(TEXTS, **ALL)
    for name in ("dense_vecs", "colbert_vecs"):
        long, short = (np.concatenate([np.atleast_2d(rows) for rows in found[name]]) for found in (raw, unit))
        lengths = np.linalg.norm(long, axis=1, keepdims=True)
        assert np.abs(lengths - 1).max() > 0.1
        np.testing.assert_allclose(long / lengths, short, rtol=0, atol=1e-6)


def test_instructions_stand_before_queries_and_passages_but_not_in_encode(tiny_m3, model):
    told = BGEM3FlagModel(
        str(tiny_m3),
        use_fp16=False,
        devices="cpu",
        query_instruction_for_retrieval="search",
        query_instruction_format="{}:\\n{}",
        passage_instruction_for_retrieval="read",
        passage_instruction_format="{} {}",
    )

    def dense(found):
        return found["dense_vecs"]

    plain = dense(model.encode(TEXTS))
    np.testing.assert_array_equal(dense(told.encode(TEXTS)), plain)
    np.testing.assert_array_equal(
        dense(told.encode_queries(TEXTS)), dense(model.encode([f"search:\n{text}" for text in TEXTS]))
    )
    np.testing.assert_array_equal(
        dense(told.encode_corpus(TEXTS)), dense(model.encode([f"read {text}" for text in TEXTS]))
    )
    np.testing.assert_array_equal(
        dense(told.encode(TEXTS, instruction="search")), dense(model.encode([f"search{t}" for t in TEXTS]))
    )
    assert np.abs(dense(told.encode_queries(TEXTS)) - plain).max() > 1e-3
    # braces of a text are no places of the template
    told.encode_queries("a {} and a {0!r}")


def test_lengths_are_of_queries_or_of_passages_and_a_call_may_say_another(tiny_m3):
    model = BGEM3FlagModel(str(tiny_m3), devices="cpu", query_max_length=5, passage_max_length=9)
    long = TEXTS[3]

    def rows(found):
        return len(found["colbert_vecs"])

    want = {"return_colbert_vecs": True}
    assert rows(model.encode_queries(long, **want)) == 4
    assert rows(model.encode_corpus(long, **want)) == rows(model.encode(long, **want)) == 8
    assert rows(model.encode_queries(long, max_length=7, **want)) == 6
    assert rows(model.encode_corpus(long, None, 6, **want)) == 5


def test_texts_longer_than_the_position_table_are_cut_and_do_not_fail(model):
    assert len(model.encode("x " * 3000, return_colbert_vecs=True)["colbert_vecs"]) == 63


def test_scores_have_their_keys_in_order_and_are_floats_in_lists(model):
    found = model.compute_score(PAIRS)
    assert list(found) == SCORES
    assert all(
        len(values) == 4 and all(type(value) is float for value in values) for values in found.values()
    )


@pytest.mark.parametrize("pair", [("the cat", "a cat"), ["the cat", "a cat"]])
def test_one_pair_gives_one_number_a_key_and_no_pair_an_empty_list(model, pair):
    found = model.compute_score(pair)
    assert list(found) == SCORES
    assert all(type(value) is float for value in found.values())
    assert found == {key: values[0] for key, values in model.compute_score([pair]).items()}
    assert model.compute_score([]) == []


def test_weights_are_of_dense_sparse_and_colbert_in_this_order(model):
    plain, weighted = (
        model.compute_score(("a cat", "the cat"), weights_for_different_modes=given)
        for given in (None, [0.4, 0.2, 0.4])
    )
    d, s, c = plain["dense"], plain["sparse"], plain["colbert"]
    assert s > 0
    assert plain["sparse+dense"] == pytest.approx((s + d) / 2)
    assert plain["colbert+sparse+dense"] == pytest.approx((c + s + d) / 3)
    assert weighted["sparse+dense"] == pytest.approx((0.2 * s + 0.4 * d) / 0.6)
    assert weighted["colbert+sparse+dense"] == pytest.approx(0.4 * d + 0.2 * s + 0.4 * c)


def test_without_weight_on_dense_and_sparse_their_mean_is_no_number_and_the_rest_is(model):
    found = model.compute_score(PAIRS, weights_for_different_modes=[0, 0, 1])
    assert list(found) == SCORES
    assert np.isnan(found["sparse+dense"]).all()
    assert found["colbert+sparse+dense"] == found["colbert"]


def test_scores_are_those_of_the_vectors_whatever_the_batch(model, embedder):
    everything = ("dense", "sparse", "multivector")
    queries, passages = (
        embedder.encode([pair[side] for pair in PAIRS], outputs=everything) for side in (0, 1)
    )
    expected = score_pairs(queries, passages).to_dict()
    for batch_size in (None, 1, 3):
        found = model.compute_score(PAIRS, batch_size=batch_size)
        for name in SCORES:
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-6)
    by_hand = [
        model.colbert_score(*(model.encode(text, **ALL)["colbert_vecs"] for text in pair)) for pair in PAIRS
    ]
    np.testing.assert_allclose(by_hand, expected["colbert"], rtol=0, atol=1e-6)
    lexical = [
        model.compute_lexical_matching_score(*(model.encode(text, **ALL)["lexical_weights"] for text in pair))
        for pair in PAIRS
    ]
    np.testing.assert_allclose(lexical, expected["sparse"], rtol=0, atol=1e-6)


def test_scores_are_of_the_shortened_vectors_that_encode_gives(tiny_m3):
    model = BGEM3FlagModel(str(tiny_m3), use_fp16=False, devices="cpu", truncate_dim=8)
    query, passage = (model.encode(text, **ALL) for text in PAIRS[0])
    found = model.compute_score(PAIRS[0])
    assert found["dense"] == pytest.approx(float(query["dense_vecs"] @ passage["dense_vecs"]), abs=1e-6)
    late = model.colbert_score(query["colbert_vecs"], passage["colbert_vecs"])
    assert found["colbert"] == pytest.approx(float(late), abs=1e-6)


def test_each_text_goes_through_the_model_once(model, monkeypatch):
    seen = forwards(model, monkeypatch)
    model.encode("the cat")
    assert seen == [1]
    seen.clear()
    model.encode(["a", "b", "c"] * 3, batch_size=4, **ALL)
    assert sum(seen) == 9
    seen.clear()
    model.compute_score([("the cat", passage) for passage in ("a", "b", "a")])
    assert sum(seen) == 3  # one query, two different passages


def test_an_error_of_the_forward_keeps_its_message_and_is_not_tried_again(model, monkeypatch):
    tried = []

    def broken(batch):
        tried.append(batch)
        raise RuntimeError("boom")

    monkeypatch.setattr(model.embedder._engine, "forward", broken)
    with pytest.raises(RuntimeError, match="boom"):
        model.encode(TEXTS)
    assert len(tried) == 1


def test_lexical_scores_are_of_two_dicts_or_two_lists(model):
    first, second = {"5": 0.5, "9": 0.25}, {"9": 0.4, "7": 1.0}
    assert model.compute_lexical_matching_score(first, second) == pytest.approx(0.1)
    assert model.compute_lexical_matching_score(first, {"3": 2.0}) == 0.0
    found = model.compute_lexical_matching_score([first, second], [second, first, {}])
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [[0.1, 0.3125, 0.0], [1.16, 0.1, 0.0]])
    assert model.compute_lexical_matching_score([], [first]).shape == (0, 1)
    with pytest.raises(ValueError, match="two lists"):
        model.compute_lexical_matching_score(first, [second])


def test_lexical_scores_of_half_precision_weights_do_not_stop_growing(model):
    weights = {str(token): np.float16(0.1) for token in range(3000)}
    found = model.compute_lexical_matching_score(weights, weights)
    assert found == pytest.approx(3000 * float(np.float16(0.1)) ** 2, rel=1e-9)


def test_the_late_interaction_of_arrays_is_the_mean_over_the_query_of_the_best_match(model):
    query, passage = np.eye(2, dtype=np.float32), np.array([[0.6, 0.8], [1, 0]], dtype=np.float32)
    found = model.colbert_score(query, passage)
    assert isinstance(found, torch.Tensor)
    assert found.shape == ()
    assert float(found) == pytest.approx(0.9)
    # a match below zero stays one, in any company
    assert float(model.colbert_score(query[:1], -query[:1])) == -1.0


def test_ids_become_tokens_and_none_that_reads_alike_is_lost(model):
    at = {piece: str(model.tokenizer.token_to_id(piece)) for piece in ("▁a", "a", "▁cat", "<mask>", "▁")}
    weights = {at["▁a"]: 0.5, at["▁cat"]: 0.3, at["a"]: 0.2, at["<mask>"]: 0.1, at["▁"]: 0.05}
    found = model.convert_id_to_token(weights)
    assert found["cat"] == 0.3
    assert found["<mask>"] == 0.1
    assert sorted(found.values()) == sorted(weights.values())
    assert model.convert_id_to_token([weights]) == found
    assert model.convert_id_to_token([weights, {}]) == [found, {}]


def test_a_missing_head_is_an_error_that_names_its_file_and_never_random(tmp_path):
    folder = tiny.write_checkpoint(tmp_path, "xlm-roberta", layout="bge-m3", m3_heads=("sparse",))
    model = BGEM3FlagModel(str(folder), devices="cpu")
    assert model.encode("the cat", return_sparse=True)["lexical_weights"]
    for call in (lambda: model.encode("a", return_colbert_vecs=True), lambda: model.compute_score(PAIRS)):
        with pytest.raises(CheckpointError, match=r"colbert_linear\.pt"):
            call()


def test_a_width_of_multi_vectors_that_the_checkpoint_does_not_have_is_refused(tmp_path):
    folder = tiny.write_checkpoint(tmp_path, "xlm-roberta", layout="bge-m3", colbert_dim=8)
    model = BGEM3FlagModel(str(folder), devices="cpu", colbert_dim=8)
    assert model.encode("a", **ALL)["colbert_vecs"].shape == (2, 8)
    with pytest.raises(InputError, match=r"colbert_linear\.pt makes vectors of 8"):
        BGEM3FlagModel(str(folder), devices="cpu", colbert_dim=16)


def test_a_keyword_that_is_not_there_is_refused_with_the_nearest(tiny_m3, model):
    with pytest.raises(TypeError, match=r"no keyword 'device'\. Did you mean 'devices'"):
        BGEM3FlagModel(str(tiny_m3), device="cpu")
    with pytest.raises(TypeError, match="Did you mean 'return_sparse'"):
        model.encode("a", return_spare=True)


@pytest.mark.parametrize("devices", ["cpu", "cpu:0", ["cpu"], ["cpu", "cpu"], torch.device("cpu")])
def test_every_name_of_the_cpu_means_it(tiny_m3, model, devices):
    found = BGEM3FlagModel(str(tiny_m3), use_fp16=False, devices=devices)
    assert found.target_devices == ["cpu"]
    np.testing.assert_array_equal(found.encode("a")["dense_vecs"], model.encode("a")["dense_vecs"])


@pytest.mark.parametrize("flags", [{}, {"use_bf16": True}, {"use_fp16": False}])
def test_on_a_cpu_nothing_is_rounded_to_sixteen_bits_for_nothing(tiny_m3, embedder, flags):
    model = BGEM3FlagModel(str(tiny_m3), devices="cpu", **flags)
    ours, exact = model.encode(TEXTS)["dense_vecs"], embedder.encode(TEXTS).numpy().dense
    assert ours.dtype == np.float32
    assert (1 - (ours * exact).sum(axis=1)).max() <= 1e-5
    assert model.embedder.plan.reasons


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query_instruction_format": "{}"}, "two places"),
        ({"query_instruction_format": "{a}{b}"}, "KeyError"),
        ({"passage_instruction_format": "{"}, "passage_instruction_format"),
        ({"batch_size": 0}, "batch_size"),
        ({"passage_max_length": -1}, "passage_max_length"),
        ({"pooling_method": "centre"}, "no pooling 'centre'"),
        ({"devices": []}, "one such as|Pass one"),
        ({"devices": "tpu"}, "no such device"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_its_name(tiny_m3, options, message):
    with pytest.raises(tercet.errors.TercetError, match=message):
        BGEM3FlagModel(str(tiny_m3), **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.encode(7), "type int"),
        (lambda model: model.encode(["a", None]), "text 1"),
        (lambda model: model.encode_queries("a", convert_to_numpy=False), "convert_to_numpy"),
        (lambda model: model.encode("a", batch_size=0), "batch_size"),
        (lambda model: model.encode("a", instruction=7), "instruction"),
        (lambda model: model.compute_score([("a",)]), "pair 0"),
        (lambda model: model.convert_id_to_token({"cat": 1.0}), "'cat' is no token id"),
        (lambda model: model.convert_id_to_token(7), "lexical weights 0"),
        (lambda model: model.colbert_score(np.eye(2), np.eye(3)), "one width"),
        (lambda model: model.compute_score([("a", "b"), "cd"]), "pair 1"),
        (lambda model: model.compute_score(PAIRS, weights_for_different_modes=[1, 2]), "three"),
        (lambda model: model.compute_score(PAIRS, weights_for_different_modes=[1, 0, -1]), "add up to 0"),
    ],
)
def test_a_call_that_cannot_be_is_refused_with_the_place(model, call, message):
    with pytest.raises(InputError, match=message):
        call(model)


@pytest.mark.parametrize(("architecture", "specials"), [("xlm-roberta", 4), ("bert", 4)])
def test_special_tokens_carry_no_weight_but_a_mask_does(tmp_path, architecture, specials):
    folder = tiny.write_checkpoint(tmp_path, architecture, layout="bge-m3")
    heads = {"weight": torch.zeros(1, 32), "bias": torch.ones(1)}
    torch.save(heads, folder / "sparse_linear.pt")  # every token weighs 1
    model = BGEM3FlagModel(str(folder), devices="cpu")
    mask = "<mask>" if architecture == "xlm-roberta" else "[MASK]"
    text = f"the {mask} cat \N{SNOWMAN}"
    [ids] = model.tokenizer.encode([text], max_length=64).ids
    found = model.encode(text, return_sparse=True)["lexical_weights"]
    assert found == {str(token_id): 1.0 for token_id in ids if token_id not in model.tokenizer.special_ids}
    assert str(model.tokenizer.token_to_id(mask)) in found
    assert len(found) == len(set(ids)) - 3  # the first token, the last and the unknown one
    assert len(model.tokenizer.special_ids) == specials


def test_an_object_serves_several_threads_and_can_be_pickled(model):
    expected = model.encode(TEXTS)["dense_vecs"]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: model.encode(TEXTS)["dense_vecs"], range(12)):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).encode(TEXTS)["dense_vecs"], expected)
