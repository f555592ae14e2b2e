"""Rows of embedding tables summed and normalised natively: the bits of torch's look-up, sums and our norm."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tercet.errors import InputError
from tercet.kernels.embeddings import Tables, embeddings, fit
from tercet.kernels.native import library
from tercet.kernels.norm import layer_norm

OWN = {"scalar", "avx2", "avx512", "neon"}
LEVELS = [level for level in (library().levels if library() else ()) if level in OWN]
pytestmark = pytest.mark.skipif(not LEVELS, reason="built without native kernels")


def a_case(rows, width, seed=0, types=2):
    draw = torch.Generator().manual_seed(seed)
    tables = Tables(
        torch.randn(50, width, generator=draw),
        torch.randn(40, width, generator=draw),
        torch.randn(types, width, generator=draw) if types else None,
    )
    ids = (
        torch.randint(50, (rows,), generator=draw),
        torch.randint(37, (rows,), generator=draw),
        torch.randint(types, (rows,), generator=draw) if types else None,
    )
    norm = (torch.randn(width, generator=draw), torch.randn(width, generator=draw), 1e-12)
    return tables, ids, norm


def by_parts(tables, ids, norm, level, first):
    hidden = functional.embedding(ids[0], tables.word)
    hidden += functional.embedding(ids[1] + first, tables.position)
    if tables.token_type is not None:
        hidden += tables.token_type[0] if ids[2] is None else functional.embedding(ids[2], tables.token_type)
    return layer_norm(hidden, *norm, level=level)


@pytest.mark.parametrize("level", LEVELS)
@given(
    rows=st.integers(0, 60),
    width=st.integers(1, 200),
    first=st.integers(0, 3),
    types=st.sampled_from([0, 1, 2]),
    given_types=st.booleans(),
    seed=st.integers(0, 999),
)
@settings(max_examples=40, deadline=None)
def test_it_has_the_bits_of_its_parts(level, rows, width, first, types, given_types, seed):
    tables, ids, norm = a_case(rows, width, seed, types)
    ids = ids if given_types else (*ids[:2], None)
    found = embeddings(tables, *ids, norm, first_position=first, level=level)
    assert torch.equal(found, by_parts(tables, ids, norm, level, first))


@pytest.mark.parametrize("level", LEVELS)
def test_threads_change_no_bit(level):
    tables, ids, norm = a_case(3000, 96)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(embeddings(tables, *ids, norm, level=level))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rows", [5, 4000])
@pytest.mark.parametrize(
    ("which", "wrong", "table"),
    [(0, 50, "token"), (0, -1, "token"), (1, 37, "position"), (2, 2, "token type"), (0, 2**40, "token")],
)
def test_an_id_without_a_row_is_an_error_and_reads_nothing(level, rows, which, wrong, table):
    tables, ids, norm = a_case(rows, 32)
    ids[which][rows - 2] = wrong
    wanted = wrong + (3 if table == "position" else 0)
    with pytest.raises(InputError, match=f"no row {wanted} in the table of {table} embeddings"):
        embeddings(tables, *ids, norm, first_position=3, level=level)


def test_it_takes_float32_on_the_cpu_in_one_piece_alone():
    tables, _, (weight, bias, _) = a_case(1, 8)
    assert fit(tables, weight, bias)
    assert fit(tables._replace(token_type=None), weight, bias)
    assert not fit(tables._replace(word=tables.word.half()), weight, bias)
    assert not fit(tables._replace(position=tables.position.t().contiguous().t()), weight, bias)
    assert not fit(tables, weight.double(), bias)
    assert not fit(tables._replace(token_type=tables.token_type.to("meta")), weight, bias)
