"""FlagReranker; what it gives to the digit is in tests/twins."""

import pickle

import numpy as np
import pytest

import tercet
import tiny
import tiny_decoders
import tiny_reranker
from tercet.compat import FlagAutoReranker, FlagReranker, RerankerModelClass
from tercet.errors import CheckpointError, InputError

PAIRS = [
    ("which city", "Paris is the city of the river"),
    ("the cat", "a dog"),
    ("", "sun"),
    ("moon", "x " * 99),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny_reranker.write_reranker(tmp_path_factory.mktemp("reranker"), "xlm-roberta"))


@pytest.fixture(scope="module")
def model(folder):
    return FlagReranker(folder, devices="cpu")


def test_scores_are_floats_in_a_list_also_for_one_pair(model):
    several = model.compute_score(PAIRS)
    assert len(several) == 4
    assert all(type(score) is float for score in several)
    for pair, score in zip(PAIRS, several, strict=True):
        for one in (pair, list(pair), [pair]):
            assert model.compute_score(one) == pytest.approx([score], abs=1e-6)
    assert model.compute_score([]) == []


def test_scores_are_the_logits_of_the_reranker_with_only_the_passage_cut(model, folder):
    ours = tercet.load_reranker(folder, precision="float32", device="cpu")
    expected = ours.score(PAIRS, activation="Identity", truncation="only_second")
    assert model.compute_score(PAIRS) == expected.tolist()


def test_normalised_scores_are_the_sigmoid_of_the_others(model, folder):
    plain = np.array(model.compute_score(PAIRS))
    expected = 1 / (1 + np.exp(-plain))
    np.testing.assert_allclose(model.compute_score(PAIRS, normalize=True), expected, rtol=1e-6)
    always = FlagReranker(folder, devices="cpu", normalize=True)
    np.testing.assert_allclose(always.compute_score(PAIRS), expected, rtol=1e-6)
    assert always.compute_score(PAIRS, normalize=False) == plain.tolist()


def test_instructions_stand_before_queries_and_before_passages(model, folder):
    told = FlagReranker(
        folder,
        devices="cpu",
        query_instruction_for_rerank="find",
        query_instruction_format="{}:\\n{}",
        passage_instruction_for_rerank="read ",
    )
    expected = model.compute_score([(f"find:\n{query}", f"read {passage}") for query, passage in PAIRS])
    assert told.compute_score(PAIRS) == expected
    assert np.abs(np.subtract(expected, model.compute_score(PAIRS))).max() > 1e-3


def test_a_query_takes_three_quarters_of_a_pair_unless_a_length_is_given(model, folder):
    long = [("the cat " * 30, "sun moon")]
    usual = model.compute_score(long, max_length=24)
    assert usual == model.compute_score(long, max_length=24, query_max_length=18)
    other = model.compute_score(long, max_length=24, query_max_length=9)
    assert usual != other
    short = FlagReranker(folder, devices="cpu", query_max_length=9, max_length=24)
    assert short.compute_score(long) == other


def test_a_model_with_several_labels_is_refused_and_told_where_to_go(tmp_path):
    folder = tiny_reranker.write_reranker(tmp_path, "bert", labels=3)
    with pytest.raises(InputError, match=r"3 scores a pair.*load_reranker"):
        FlagReranker(str(folder), devices="cpu")


@pytest.mark.parametrize("template", [tiny_decoders.TEMPLATE, None])
def test_a_language_model_is_refused_and_told_where_to_go(tmp_path, template):
    folder = tiny_decoders.write_reranker(tmp_path, template=template)
    for load in (FlagReranker, FlagAutoReranker.from_finetuned):
        with pytest.raises(InputError, match=r"LogitScore.*tercet\.compat\.CrossEncoder"):
            load(str(folder))


def test_an_embedder_is_no_reranker(tmp_path):
    folder = tiny.write_checkpoint(tmp_path, "bert")
    with pytest.raises(CheckpointError):
        FlagReranker(str(folder), devices="cpu")


def test_keywords_that_are_not_there_are_refused_with_the_nearest(model, folder):
    with pytest.raises(TypeError, match="Did you mean 'use_fp16'"):
        FlagReranker(folder, use_bf16=True)
    with pytest.raises(TypeError, match="Did you mean 'max_length'"):
        model.compute_score(PAIRS, max_len=9)


@pytest.mark.parametrize("pairs", [[("a",)], [("a", None)], ["ab", "c", "d"]])
def test_what_is_no_pair_is_refused_with_its_number(model, pairs):
    with pytest.raises(InputError, match="pair 0"):
        model.compute_score(pairs)


@pytest.mark.parametrize("options", [{"max_length": 0}, {"query_max_length": -1}, {"batch_size": 0}])
def test_an_option_that_cannot_be_is_refused_with_its_name(folder, options):
    with pytest.raises(InputError, match=next(iter(options))):
        FlagReranker(folder, **options)


def test_sixteen_bits_on_a_cpu_are_a_wish_without_visible_loss(model, folder):
    wished = FlagReranker(folder, use_fp16=True, devices="cpu")
    exact = np.array(model.compute_score(PAIRS))
    assert np.abs(np.array(wished.compute_score(PAIRS)) - exact).max() <= 1e-2 * max(1, np.abs(exact).max())
    assert wished.reranker.plan.reasons


@pytest.mark.parametrize("kind", [None, "encoder-only-base", RerankerModelClass.ENCODER_ONLY_BASE])
def test_the_automatic_class_loads_a_folder_of_any_name(model, folder, kind):
    found = FlagAutoReranker.from_finetuned(folder, kind, devices="cpu", normalize=True)
    assert type(found) is FlagReranker
    assert found.compute_score(PAIRS) == model.compute_score(PAIRS, normalize=True)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("decoder-only-layerwise", "decoder"), ("encoder-only", "Did you mean 'encoder-only-base'")],
)
def test_the_automatic_class_refuses_what_is_not_read_here(folder, kind, message):
    with pytest.raises(InputError, match=message):
        FlagAutoReranker.from_finetuned(folder, kind)
    with pytest.raises(InputError, match="from_finetuned"):
        FlagAutoReranker()
    with pytest.raises(TypeError, match="passage_max_length"):
        FlagAutoReranker.from_finetuned(folder, passage_max_length=512)


def test_an_object_can_be_pickled(model):
    assert pickle.loads(pickle.dumps(model)).compute_score(PAIRS) == model.compute_score(PAIRS)
