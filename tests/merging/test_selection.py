"""The exact k largest by passes, and random numbers by place."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.merging.method import Chunk
from tercet.merging.randomness import uniform
from tercet.merging.selection import largest


def driven(steps, chunks):
    """What a generator of passes returns, and how many passes it asked for."""
    found, passes = None, 0
    while True:
        try:
            asked = steps.send(found)
        except StopIteration as end:
            return end.value, passes
        found, passes = asked.statistics(chunks[0]), passes + 1
        for chunk in chunks[1:]:
            found = asked.merge_statistics(found, asked.statistics(chunk))


def chunked(values, step):
    pieces = [values[start : start + step] for start in range(0, len(values), step)]
    return [Chunk((piece.reshape(1, -1),), None, place * step) for place, piece in enumerate(pieces)]


numbers = st.one_of(
    st.floats(min_value=0, allow_infinity=False), st.sampled_from([0.0, 1.0, 1.0 + 2**-52, 5e-324])
)


@given(st.lists(numbers, min_size=1, max_size=60), st.data(), st.integers(1, 20), st.integers(0, 30))
def test_the_k_largest_are_those_of_a_stable_sort(values, data, step, collected):
    k = data.draw(st.integers(1, len(values)))
    other = data.draw(st.integers(1, len(values)))
    keys = torch.tensor(values, dtype=torch.float64)
    chunks = chunked(keys, step)
    wanted = [(0, k), (0, other)]
    found, _ = driven(largest(lambda chunk: chunk.inputs, wanted, len(keys), collected), chunks)
    order = sorted(range(len(values)), key=lambda place: (-values[place], place))
    for one, count in zip(found, (k, other), strict=True):
        mask = torch.cat([one.mask(chunk.inputs[0], chunk.first).reshape(-1) for chunk in chunks])
        assert mask.nonzero().reshape(-1).tolist() == sorted(order[:count])
        assert one.value == values[order[count - 1]]


def test_few_passes_are_enough_for_many_numbers():
    keys = torch.rand(50_000, dtype=torch.float64)
    wanted = [(0, 10_000)]
    _, passes = driven(largest(lambda chunk: chunk.inputs, wanted, len(keys), 1000), chunked(keys, 4096))
    assert passes == 2
    _, passes = driven(largest(lambda chunk: chunk.inputs, wanted, len(keys)), chunked(keys, 4096))
    assert passes == 1


def test_random_numbers_do_not_depend_on_how_they_are_cut():
    whole = uniform(7, 0, (1000,))
    parts = [uniform(7, start, (1, 100)).reshape(-1) for start in range(0, 1000, 100)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(uniform(8, 0, (1000,)), whole)


@pytest.mark.parametrize("seed", [0, 1, -1, -(2**63), 2**63 - 1])
def test_random_numbers_are_spread_evenly(seed):
    drawn = uniform(seed, 12345, (200_000,))
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) < 1
    # five standard deviations of a mean, and of a count in one of ten boxes
    assert abs(float(drawn.mean()) - 0.5) < 5 * 0.289 / 200_000**0.5
    boxes = torch.histc(drawn, 10, 0, 1)
    assert float((boxes - 20_000).abs().max()) < 5 * (200_000 * 0.09) ** 0.5
    assert abs(float(torch.corrcoef(torch.stack([drawn[1:], drawn[:-1]]))[0, 1])) < 5 / 200_000**0.5
