"""FlagEmbedding's templates, lengths and weights, for any text and any number."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.compat.flag_options import check_format, instructed, precision_wish
from tercet.compat.flag_results import checked_pairs, checked_weights, lexical_list, lexical_scores
from tercet.errors import InputError

WEIGHTS = st.dictionaries(st.text(max_size=3), st.floats(0, 100, width=32), max_size=6)


@given(st.lists(st.text()), st.text())
def test_any_text_stands_whole_behind_any_instruction(texts, instruction):
    found, alone = instructed(texts, instruction, "<{}>\\n{}", name="a")
    assert found == [f"<{instruction}>\n{text}" for text in texts]
    assert not alone
    assert instructed(texts, None, "", name="a") == (texts, False)


@given(st.text())
def test_one_text_is_told_from_several(text):
    assert instructed(text, None, "{}{}", name="a") == ([text], True)
    assert instructed(text, "b", "{1}{0}", name="a") == ([f"{text}b"], True)


@given(st.text(alphabet="{}01a\\n!:", max_size=8))
def test_a_template_is_refused_or_keeps_the_text(template):
    try:
        check_format("the_format", template)
    except InputError:
        with pytest.raises(InputError, match=r"the_format.*'\{\}\{\}'"):
            instructed("the text", "instruction", template, name="the_format")
    else:
        [found], _ = instructed("the text", "instruction", template, name="the_format")
        assert "the text" in found


@given(st.lists(WEIGHTS, max_size=4), st.lists(WEIGHTS, max_size=4))
def test_lexical_scores_are_the_sums_over_shared_tokens(first, second):
    found = lexical_scores(first, second).numpy()
    expected = [[sum(one[t] * two[t] for t in one.keys() & two.keys()) for two in second] for one in first]
    assert found.shape == (len(first), len(second))
    np.testing.assert_allclose(found, np.reshape(expected, found.shape), rtol=1e-12)


@given(st.lists(st.tuples(st.text(), st.text())))
def test_pairs_are_taken_as_they_are(pairs):
    assert checked_pairs(pairs) == (pairs, False)
    for pair in pairs:
        assert checked_pairs(pair) == checked_pairs(list(pair)) == ([pair], True)


@pytest.mark.parametrize("wrong", [[("a", "b", "c")], [("a", 1)], [7], [None], ["a"]])
def test_what_is_no_pair_is_refused_with_its_number(wrong):
    with pytest.raises(InputError, match="pair 0"):
        checked_pairs(wrong)


@pytest.mark.parametrize("wrong", ["ab", 7, None])
def test_what_holds_no_pairs_is_refused(wrong):
    with pytest.raises(InputError, match=f"of type {type(wrong).__name__}"):
        checked_pairs(wrong)


@pytest.mark.parametrize("wrong", [7, "a", [{}, 7]])
def test_what_is_no_lexical_weight_is_refused_with_its_number(wrong):
    with pytest.raises(InputError, match=r"lexical weights [01] are"):
        lexical_list(wrong)


@pytest.mark.parametrize("wrong", [[1, 2], [1, 2, 3, 4], [], "abc", [1, None, 2], 7])
def test_weights_are_three_numbers(wrong):
    with pytest.raises(InputError, match="weights_for_different_modes"):
        checked_weights(wrong)
    assert checked_weights(None) == (1.0, 1.0, 1.0)
    assert checked_weights(np.array([1, 2, 3])) == (1.0, 2.0, 3.0)


def test_a_template_is_text():
    with pytest.raises(InputError, match="the_format is of type NoneType"):
        check_format("the_format", None)


@pytest.mark.parametrize(
    ("device", "flags", "wish"),
    [
        ("cpu", (False, False), "float32"),
        ("cpu", (True, False), "auto"),
        ("cpu", (False, True), "auto"),
        ("cuda:0", (False, False), "float32"),
        ("cuda:0", (True, False), "float16"),
        ("cuda:0", (True, True), "bfloat16"),
    ],
)
def test_flags_are_a_wish_on_a_cpu_and_a_name_on_an_accelerator(device, flags, wish):
    assert precision_wish(device, use_fp16=flags[0], use_bf16=flags[1]) == wish
