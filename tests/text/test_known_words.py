from concurrent.futures import ThreadPoolExecutor

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers

import tiny
from tercet.checkpoint.layout import open_checkpoint
from tercet.errors import InputError
from tercet.text import known_words
from tercet.text.known_words import KnownWords, splits_at_spaces
from tercet.text.tokenizer import Tokenizer

# Spaces of every kind, controls, accents composed and apart, Chinese, specials, ligatures, a final sigma.
PIECES = st.sampled_from(
    [
        *" \t\n\r\x00\x1c\x85\u00a0\u2028\u3000\u200b\ufffd",
        *(
            "a",
            "B",
            ".",
            ",",
            "'",
            "-",
            "1",
            "é",
            "É",
            "İ",
            "ß",
            "ﬁ",
            "Σ",
            "e\u0301",
            "\u0301",
            "東",
            "京",
            "한",
        ),
        *("the", "cat", "[SEP]", "[MASK]", "[sep]", "##a", "unbelievable", "ΟΔΟΣ", "x" * 120, "👩\u200d🚀"),
    ]
)
TEXT = st.one_of(st.lists(PIECES, max_size=40).map("".join), st.text(max_size=60))


@pytest.fixture(scope="module")
def real(minilm):
    return Tokenizer.open(open_checkpoint(minilm))


@pytest.mark.parametrize("special", [True, False])
@given(texts=st.lists(TEXT, max_size=6))
@example(texts=["", " ", "the  cat ", " the \u0301 cat", "[SEP] [ SEP ]", "a" * 300 + " b"])
def test_ids_by_words_are_those_of_the_tokenizer(real, special, texts):
    found = real._inner.encode_batch(texts, add_special_tokens=special)
    for _ in range(2):  # of words that are new, and that are known
        assert real._ids(texts, special=special) == [encoding.ids for encoding in found]


def test_known_words_are_not_asked_for_again_and_their_memory_ends(tiny_bert, monkeypatch):
    monkeypatch.setattr(known_words, "_MOST_WORDS", 3)
    monkeypatch.setattr(known_words, "_NEW", 1.0)
    inner = tokenizers.Tokenizer.from_file(str(tiny_bert / "tokenizer.json"))
    asked = []

    class Watched(KnownWords):
        def _made(self, words):
            asked.append(sorted(words))
            return super()._made(words)

    known = Watched(inner)
    expected = [encoding.ids for encoding in inner.encode_batch(["the cat", "the dog the"])]
    around = expected[0][:1], expected[0][-1:]
    assert known.encode(["the cat", "the dog the"], *around) == expected
    assert known.encode(["the cat", "the dog the"], *around) == expected
    known.encode(["the bird"], *around)
    known.encode(["the bird " + "x" * 99], *around)
    known.encode(["dog " + "x" * 99], *around)
    assert asked == [["cat", "dog", "the"], ["bird"], ["x" * 99], ["x" * 99]]


def test_a_full_memory_is_not_given_up_for_texts_of_new_words_alone_until_they_go_on(real, monkeypatch):
    monkeypatch.setattr(known_words, "_MOST_WORDS", 5)
    monkeypatch.setattr(known_words, "_CALLS", 3)
    known = KnownWords(real._inner)
    assert known.encode(["the cat is here"], [], []) is not None
    others = [f"{number} {number + 1} the" for number in range(0, 10, 2)]
    assert [known.encode([text], [], []) is None for text in others] == [True, True, True, False, False]


def test_many_threads_that_forget_all_the_time_get_the_same(real, monkeypatch):
    monkeypatch.setattr(known_words, "_MOST_WORDS", 8)
    monkeypatch.setattr(known_words, "_CALLS", 2)
    texts = [" ".join(f"{word}{n}" for word in ("the", "cat", "reads")) for n in range(60)]
    expected = [encoding.ids for encoding in real._inner.encode_batch(texts)]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: [real._ids([text])[0] for text in texts], range(8)):
            assert found == expected


def test_a_text_that_is_no_unicode_is_named(real):
    with pytest.raises(InputError, match="text 1 of the batch is not valid Unicode"):
        real.encode(["fine", "not \ud800 fine"], max_length=9)


@pytest.mark.parametrize("architecture", ["roberta", "xlm-roberta"])
def test_other_tokenizers_are_asked_for_whole_texts(tmp_path, architecture):
    folder = tiny.write_checkpoint(tmp_path, architecture)
    assert not splits_at_spaces(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")))


@pytest.mark.parametrize(
    "change",
    [
        lambda inner: inner.add_tokens([AddedToken("new york")]),
        lambda inner: inner.add_tokens([AddedToken("new\tyork")]),
        lambda inner: inner.add_tokens([AddedToken("yo", single_word=True)]),
        lambda inner: inner.add_special_tokens([AddedToken("<m>", lstrip=True)]),
        lambda inner: inner.add_tokens([AddedToken("東京")]),
        lambda inner: setattr(inner, "normalizer", normalizers.Lowercase()),
        lambda inner: setattr(inner, "pre_tokenizer", pre_tokenizers.Metaspace()),
    ],
)
def test_what_could_reach_across_a_space_is_asked_for_whole_texts(tiny_bert, change):
    inner = tokenizers.Tokenizer.from_file(str(tiny_bert / "tokenizer.json"))
    assert splits_at_spaces(inner)
    change(inner)
    assert not splits_at_spaces(inner)


@pytest.mark.parametrize(
    "added",
    [
        AddedToken("[UNK]", special=True, normalized=False),
        AddedToken("cat", normalized=False),
        AddedToken("[PAD]", special=True, normalized=False),
        AddedToken("cat", normalized=True),
    ],
    ids=["of unknown words", "a word", "of its own", "normalised"],
)
def test_the_first_added_token_may_be_any(added):
    entries = [added.content, "[UNK]", "[PAD]", "a", "cat", "dog", "##s", "[", "]", "pad"]
    places = {entry: place for place, entry in enumerate(dict.fromkeys(entries))}
    inner = tokenizers.Tokenizer(tokenizers.models.WordPiece(places, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    inner.add_tokens([added])
    assert splits_at_spaces(inner)
    texts = ["a strange dog", "a CAT and dogs", "cats [PAD] a", "[UNK] dog"]
    expected = [encoding.ids for encoding in inner.encode_batch(texts)]
    assert KnownWords(inner).encode(texts, [], []) == expected
