from hypothesis import given
from hypothesis import strategies as st

from tercet.text.pack import pack


@given(lengths=st.lists(st.integers(0, 50), max_size=40), budget=st.integers(1, 100))
def test_parts_are_consecutive_whole_and_within_the_budget(lengths, budget):
    parts = list(pack(lengths, budget))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(len(lengths)))
    for part in parts:
        inside = lengths[part]
        assert sum(inside) <= budget or len(inside) == 1


@given(lengths=st.lists(st.integers(1, 50), max_size=40), budget=st.integers(1, 100))
def test_no_part_could_have_taken_the_next_text_too(lengths, budget):
    parts = list(pack(lengths, budget))
    for part in parts[:-1]:
        assert sum(lengths[part]) + lengths[part.stop] > budget
