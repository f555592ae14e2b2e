import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from tercet.checkpoint.layout import open_checkpoint
from tercet.errors import CheckpointError, InputError
from tercet.text.pairs import PairEncoder
from tercet.text.tokenizer import Tokenizer

TEXT = st.lists(st.sampled_from([*tiny.WORDS, "zzz", "é", "42", " "]), max_size=30).map(" ".join)


@pytest.fixture(scope="module", params=["bert", "roberta", "xlm-roberta"])
def both(request, tmp_path_factory):
    """Our encoder of pairs, and the library's tokenizer as it lies in the folder."""
    folder = tiny.write_checkpoint(tmp_path_factory.mktemp("pairs"), request.param)
    theirs = tiny.tokenizer(request.param)
    return PairEncoder(Tokenizer.open(open_checkpoint(folder)), str(folder)), theirs


@given(query=TEXT, document=TEXT, length=st.integers(6, 40))
def test_the_longest_text_is_cut_first_as_by_the_library(both, query, document, length):
    ours, theirs = both
    theirs.enable_truncation(length, strategy="longest_first")
    expected = theirs.encode(query, document)
    theirs.no_truncation()
    found = ours.encode([(query, document)], max_length=length)
    assert found.ids == [expected.ids]
    assert found.type_ids == [expected.type_ids]
    assert found.truncated == [len(theirs.encode(query, document).ids) > length]


@given(query=TEXT, document=TEXT, length=st.integers(20, 40))
def test_with_only_second_the_query_is_cut_to_three_quarters_and_then_the_document_alone(
    both, query, document, length
):
    ours, theirs = both
    asked = theirs.encode(query, add_special_tokens=False)
    asked.truncate(length * 3 // 4)
    given = theirs.encode(document, add_special_tokens=False)
    given.truncate(length - len(asked.ids) - ours.num_special_tokens)
    found = ours.encode([(query, document)], max_length=length, truncation="only_second")
    assert found.ids == [theirs.post_process(asked, given).ids]
    assert found.lengths[0] <= length


def test_a_limit_of_the_query_is_kept_and_never_leaves_the_pair(both):
    ours, theirs = both
    pair = ("wait for several coroutines " * 9, "the cat")
    query, document = (theirs.encode(text, add_special_tokens=False).ids for text in pair)
    two = ours.encode([pair], max_length=40, truncation="only_second", query_max_length=2)
    assert two.lengths == [2 + len(document) + ours.num_special_tokens]
    assert two.truncated == [True]
    all_of_it = ours.encode([pair], max_length=20, truncation="only_second", query_max_length=99)
    assert all_of_it.lengths == [20]
    assert (
        query[: 20 - ours.num_special_tokens]
        == [token for token in all_of_it.ids[0] if token in set(query)][: 20 - ours.num_special_tokens]
    )


def test_a_prompt_stands_before_the_query_alone(both):
    ours, _ = both
    plain = ours.encode([("the river: a bird", "a fish")], max_length=40)
    assert ours.encode([("a bird", "a fish")], max_length=40, prompt="the river: ").ids == plain.ids


def test_a_limit_without_room_for_both_texts_is_refused(both):
    ours, _ = both
    least = ours.num_special_tokens + 2
    assert ours.encode([("a a", "a a")], max_length=least).lengths == [least]
    with pytest.raises(InputError, match=rf"max_length={least - 1} .*Pass at least {least}"):
        ours.encode([("a", "a")], max_length=least - 1)


def test_a_tokenizer_that_knows_no_pairs_is_refused(tmp_path):
    from tokenizers import Tokenizer as Library
    from tokenizers import processors

    folder = tiny.write_checkpoint(tmp_path, "bert")
    path = folder / "tokenizer.json"
    made = Library.from_file(str(path))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $B $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.save(str(path))
    with pytest.raises(CheckpointError, match=r"one behind the other.*tokenizer\.json"):
        PairEncoder(Tokenizer.open(open_checkpoint(folder)), str(folder))
