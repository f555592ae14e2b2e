from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

import workloads


def count(text):
    """A tokenizer of which long words are several tokens; two special ones."""
    return 2 + sum(1 + len(word) // 5 for word in text.split())


def test_mixed_lengths_lie_within_their_bounds_around_the_stated_mean():
    lengths = workloads.mixed_lengths(256)
    assert min(lengths) >= 16
    assert max(lengths) == 512
    assert mean(lengths) == pytest.approx(134, rel=0.03)


def test_a_smaller_workload_is_the_beginning_of_a_larger():
    assert workloads.mixed_lengths(256)[:64] == workloads.mixed_lengths(64)


@given(st.lists(st.integers(8, 90), min_size=1, max_size=8), st.integers(0, 5))
def test_texts_are_as_long_as_asked_within_a_word(lengths, seed):
    source = ["a", "packed", "encoder", "computes", "nothing", "but", "what", "is", "there"]
    texts = workloads.make_texts(lengths, source, count, seed=seed)
    for length, text in zip(lengths, texts, strict=True):
        assert length - 2 <= count(text) <= length


def test_texts_are_the_same_every_time():
    source = [str(number) for number in range(100)]
    made = [workloads.make_texts((20, 30), source, count) for _ in range(2)]
    assert made[0] == made[1]


@pytest.mark.parametrize("source", ["cranfield", "docstrings"])
def test_words_and_documents_are_there_with_and_without_cranfield(source, monkeypatch, tmp_path):
    if source == "docstrings":
        monkeypatch.setattr(workloads, "CRANFIELD", tmp_path / "none")
    assert len(workloads.words()) > 10_000
    documents = workloads.corpus()
    assert len(documents) > 200
    assert all(documents)
