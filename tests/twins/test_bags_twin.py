"""Stacks on BoW against sentence-transformers."""

import json
import pickle

import numpy as np
import pytest

import tercet
from recorder import bag_cases
from tercet.checkpoint import bag_files
from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.writer import save_checkpoint
from tercet.errors import CheckpointError, InputError
from tercet.modules import bag_of_words
from tercet.precision.dtype import DType
from tiny_modules import pooling, word_weights


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("bags")


def opened(folder, precision="float32", **options):
    return tercet.load(folder, precision=precision, device="cpu", **options)


def both(model):
    texts = list(bag_cases.TEXTS)
    return np.concatenate([model.encode(texts).dense, model.encode(texts, prompt=bag_cases.PROMPT).dense])


@pytest.mark.parametrize("precision", ["float32", "float16", "auto"])
@pytest.mark.parametrize("name", bag_cases.CASES)
def test_bags_of_words_embed_as_in_sentence_transformers(name, precision, peer, tmp_path):
    found = both(opened(bag_cases.write(tmp_path / "model", name), precision))
    assert found.dtype == np.float32
    assert found.shape == peer[name].shape
    np.testing.assert_allclose(found, peer[name], rtol=1e-5, atol=1e-5)


def test_every_recorded_bag_is_compared(peer):
    assert set(peer) == set(bag_cases.CASES)


@pytest.mark.parametrize("numbers", [1, 500])
@pytest.mark.parametrize("name", ["dense, normalize", "once each"])
def test_texts_taken_a_few_at_a_time_have_the_same_vectors(name, numbers, peer, tmp_path, monkeypatch):
    monkeypatch.setattr(bag_of_words, "_NUMBERS", numbers)
    found = both(opened(bag_cases.write(tmp_path / "model", name)))
    np.testing.assert_allclose(found, peer[name], rtol=1e-5, atol=1e-5)


def test_a_bag_is_planned_pickled_and_embeds_no_text(tmp_path):
    folder = bag_cases.write(tmp_path / "model", "dense, normalize")
    assert open_checkpoint(folder).footprint().outputs == ("dense",)
    page = str(tercet.plan(folder, device="cpu")).replace("\n    ", " ")
    assert "There is no encoder: a weight for each of 220 tokens, and modules behind them, are all." in page
    model = pickle.loads(pickle.dumps(opened(folder)))
    assert model.encode([]).dense.shape == (0, 16)
    assert model.encode(["", "the (cat)"]).num_tokens.tolist() == [0, 2]


def test_a_copy_in_another_dtype_keeps_the_words_and_their_weights(tmp_path):
    folder = bag_cases.write(tmp_path / "model", "listed twice")
    copy = save_checkpoint(open_checkpoint(folder), tmp_path / "copy", DType.FLOAT16)
    np.testing.assert_array_equal(both(opened(copy)), both(opened(folder)))
    folder = bag_cases.write(tmp_path / "behind", "dense, normalize")
    copy = save_checkpoint(open_checkpoint(folder), tmp_path / "half", DType.FLOAT16)
    np.testing.assert_allclose(both(opened(copy)), both(opened(folder)), atol=1e-3)


@pytest.mark.parametrize("module", ["Pooling", "WordWeights"])
def test_a_module_of_token_vectors_behind_a_bag_is_refused(tmp_path, module):
    folder = bag_cases.write(tmp_path, "words")
    part = {"Pooling": pooling(), "WordWeights": word_weights()}[module]
    made = folder / "part"
    made.mkdir()
    kind, _ = part(made, 220, "float32", False)
    made.rename(folder / "1_Behind")
    path = folder / "modules.json"
    entry = {"idx": 1, "name": "1", "path": "1_Behind", "type": f"sentence_transformers.models.{kind}"}
    path.write_text(json.dumps([*json.loads(path.read_text()), entry]))
    with pytest.raises(CheckpointError, match="1_Behind"):
        opened(folder)


def test_a_bag_whose_file_changed_after_it_was_opened_is_refused(tmp_path):
    checkpoint = open_checkpoint(bag_cases.write(tmp_path, "words"))
    path = tmp_path / "0_BoW" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab": ["a", "cat"]}))
    [info] = checkpoint.modules[0].tensors.values()
    with pytest.raises(CheckpointError, match="changed while in use"):
        checkpoint.read(info, DType.FLOAT32)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vocab": []}, "'vocab' is not a list of words"),
        ({"vocab": ["a", 3]}, "'vocab' is not a list of words"),
        ({"word_weights": [1.0]}, "'word_weights' is not a weight for each word"),
        ({"word_weights": {"the": "much"}}, "the weight of 'the' is 'much'"),
        ({"word_weights": {"the": 1e300}}, "the weight of 'the' is 1e.300.*float32"),
        ({"unknown_word_weight": None}, "'unknown_word_weight' is None"),
        ({"cumulative_term_frequency": 1}, "'cumulative_term_frequency' is 1, expected true or false"),
        ({"stop_words": []}, "'stop_words' is not known"),
    ],
)
def test_bags_that_cannot_be_are_refused_with_their_file(tmp_path, changes, says):
    path = bag_cases.write(tmp_path, "words") / "0_BoW" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=says) as caught:
        opened(tmp_path)
    assert str(path) in str(caught.value)


def test_more_words_than_a_vector_may_have_numbers_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(bag_files, "MOST_WORDS", 100)
    with pytest.raises(CheckpointError, match=r"220 words.*up to 100 are supported.*fewer words"):
        opened(bag_cases.write(tmp_path, "words"))


def test_another_pooling_of_a_bag_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no vectors to pool\. Leave pooling out"):
        opened(bag_cases.write(tmp_path, "words"), pooling="mean")


def test_a_dense_of_another_vocabulary_is_refused_before_it_is_read(tmp_path):
    folder = bag_cases.write(tmp_path, "dense, normalize")
    path = folder / "0_BoW" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab": ["a", "cat"]}))
    with pytest.raises(CheckpointError, match=r"1_Dense: in_features is 220, what comes before it is 2 wide"):
        opened(folder)
