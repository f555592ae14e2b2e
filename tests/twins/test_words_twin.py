"""Stacks on WordEmbeddings against sentence-transformers, each text alone."""

import json
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import tercet
from recorder import word_cases
from tercet.errors import CheckpointError, MissingExtraError
from tercet.text.words import WordTokenizer

# Largest part of a vector's length by which it moves, of a table used as stored and modules in float32.
DRIFT = {"float16": 2e-3, "bfloat16": 2e-2}


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("words")


@pytest.fixture
def nltk(peer, monkeypatch):
    """In place of NLTK, which is not installed here, what it finds in the texts."""
    found = json.loads(str(peer["nltk"]))

    def word_tokenize(text, preserve_line):
        assert preserve_line
        return list(found[text])

    monkeypatch.setitem(sys.modules, "nltk.tokenize", SimpleNamespace(word_tokenize=word_tokenize))


def encoded(folder, name, precision="float32"):
    texts = word_cases.TEXTS[2:] if name.startswith("lstm") else word_cases.TEXTS
    return tercet.load(folder, precision=precision, device="cpu").encode(texts).numpy().dense


@pytest.mark.parametrize("name", word_cases.CASES)
def test_word_embeddings_embed_as_in_sentence_transformers(name, peer, tmp_path, nltk):
    found = encoded(word_cases.write(tmp_path / "model", name), name)
    expected = peer[name]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["mean of words", "lstm of words"])
def test_words_in_a_half_format_stay_within_their_drift(name, precision, stored, tmp_path):
    folder = word_cases.write(tmp_path / "model", name, dtype=stored)
    exact, found = (encoded(folder, name, kind)[2:].astype(np.float64) for kind in ("float32", precision))
    distance = np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert distance.max() <= DRIFT[precision]


def test_every_recorded_stack_on_words_is_compared(peer):
    assert set(peer) == {"nltk", *word_cases.CASES}


def test_words_are_cut_counted_and_named(tmp_path):
    model = tercet.load(
        word_cases.write(tmp_path, "weighted words, short"), precision="float32", device="cpu"
    )
    found = pickle.loads(pickle.dumps(model)).encode(word_cases.TEXTS)
    assert found.num_tokens.tolist() == [0, 0, 7, 7, 7, 7]
    assert found.truncated.tolist() == [False, False, False, False, True, True]
    ids = model.tokenizer.encode(["The (cat)"], max_length=9).ids[0]
    assert [model.tokenizer.id_to_token(place) for place in ids] == ["the", "cat"]


def test_punctuation_alone_is_no_word_though_an_empty_one_is_listed():
    words = WordTokenizer(["", "cat"], left_out=frozenset(), lowercase=False)
    assert words.encode(["... cat!"], max_length=9).ids == [[1]]


def test_the_maximum_over_no_word_is_a_vector_of_zeros(tmp_path):
    folder = word_cases.write(tmp_path, "mean of words")
    model = tercet.load(folder, pooling="max", precision="float32", device="cpu")
    found = model.encode(["", "the cat"]).dense
    assert not found[0].any()
    assert found[1].any()


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        (
            "wordembedding_config.json",
            {"tokenizer_class": "x.Wrapper"},
            "WhitespaceTokenizer or a PhraseTokenizer",
        ),
        ("wordembedding_config.json", {"max_seq_length": 0}, "'max_seq_length' is 0"),
        ("wordembedding_config.json", {"more": 1}, "'more' is not known"),
        ("whitespacetokenizer_config.json", {"vocab": ["a"] * 300}, "300 words, the table 220 rows"),
        ("whitespacetokenizer_config.json", {"stop_words": [3]}, "'stop_words' is not a list"),
    ],
)
def test_word_embeddings_that_cannot_be_are_refused_with_their_file(tmp_path, file, changes, says):
    path = word_cases.write(tmp_path, "mean of words") / "0_WordEmbeddings" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=says) as caught:
        tercet.load(tmp_path, precision="float32", device="cpu")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ngram_separator": ""}, "'ngram_separator' is ''"),
        ({"max_ngram_length": "5"}, "'max_ngram_length' is '5'"),
        ({"vocab": "the cat"}, "'vocab' is not a list"),
        ({"vocab": ["a"] * 300}, "300 words, the table 220 rows"),
    ],
)
def test_phrases_that_cannot_be_are_refused_with_their_file(tmp_path, changes, says, nltk):
    path = word_cases.write(tmp_path, "phrases") / "0_WordEmbeddings" / "phrasetokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=says) as caught:
        tercet.load(tmp_path, precision="float32", device="cpu")
    assert str(path) in str(caught.value)


def test_phrases_ask_for_the_extra_that_splits_their_words(tmp_path, monkeypatch):
    folder = word_cases.write(tmp_path, "phrases")
    monkeypatch.setitem(sys.modules, "nltk.tokenize", None)
    with pytest.raises(
        MissingExtraError, match=r"splits words as NLTK.*'nltk'.*pip install 'tercet\[phrases\]'"
    ):
        tercet.load(folder, precision="float32", device="cpu")


def test_phrases_are_named_saved_again_and_pickled(tmp_path, nltk):
    model = tercet.load(word_cases.write(tmp_path, "phrases"), precision="float32", device="cpu")
    tokenizer = pickle.loads(pickle.dumps(model)).tokenizer
    ids = tokenizer.encode([word_cases.TEXTS[5]], max_length=99).ids[0]
    words = [tokenizer.id_to_token(place) for place in ids]
    assert words[:6] == ["ca", "New_York_City", "nor_the_new", "times", "the", "csv"]
    saved = tmp_path / "phrasetokenizer_config.json"
    saved.write_text(tokenizer.to_json())
    assert type(tokenizer).read(saved, 220).encode(word_cases.TEXTS, max_length=99).ids == [
        *tokenizer.encode(word_cases.TEXTS, max_length=99).ids
    ]


@pytest.mark.parametrize("pooling", ["cls", "mean+lasttoken"])
def test_a_pooling_of_one_place_is_refused_since_a_text_may_have_no_words(tmp_path, pooling):
    folder = word_cases.write(tmp_path, "mean of words")
    with pytest.raises(CheckpointError, match=r"first or the last token.*Pass pooling='mean'"):
        tercet.load(folder, pooling=pooling)


@pytest.mark.parametrize(
    "name", [name for name in word_cases.CASES if not name.startswith(("lstm", "phrases", "no phrases"))]
)
def test_a_text_without_known_words_is_embedded_beside_others_as_alone(tmp_path, name):
    model = tercet.load(word_cases.write(tmp_path, name), precision="float32", device="cpu")
    found = model.encode(["", "the cat", "unknowable"]).dense
    np.testing.assert_allclose(found[2], model.encode(["unknowable"]).dense[0], atol=1e-6)
    np.testing.assert_allclose(found[1], model.encode(["the cat"]).dense[0], rtol=1e-5, atol=1e-6)
