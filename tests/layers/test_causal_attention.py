"""Attention in which a token looks at itself and at those before it, and heads share keys."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.batch import Batch
from tercet.layers.attention import attention, grouped, padded, varlen
from tercet.layers.norm import RMSNorm
from tercet.layers.rotary import Rotary, turned

LENGTHS = st.lists(st.sampled_from([1, 2, 2, 3, 17, 33]), min_size=1, max_size=5)


def batch_of(lengths):
    return Batch.from_ids([[1] * length for length in lengths])


def rows_of(lengths, heads, shared, seed, width=4):
    made = torch.Generator().manual_seed(seed)
    return [
        torch.randn(sum(lengths), width * count, generator=made)
        for count in (heads, heads // shared, heads // shared)
    ]


def by_hand(rows, lengths, heads, shared, attended=None):
    """softmax(q k' / sqrt(d)) v over the tokens so far, one text and one head at a time, in float64."""
    width = rows[0].shape[1] // heads
    parts = []
    for number, (query, key, value) in enumerate(
        zip(*(one.double().split(lengths) for one in rows), strict=True)
    ):
        mixed = []
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            theirs = slice(head // shared * width, (head // shared + 1) * width)
            scores = query[:, own] @ key[:, theirs].T / width**0.5
            hidden = torch.ones_like(scores).triu(1) > 0
            if attended is not None:
                hidden[:, attended[number] :] = True
            mixed.append(scores.masked_fill(hidden, float("-inf")).softmax(1) @ value[:, theirs])
        parts.append(torch.cat(mixed, dim=1))
    return torch.cat(parts).float()


@pytest.mark.parametrize("way", [grouped, padded])
@given(
    lengths=LENGTHS, heads=st.sampled_from([4, 8]), shared=st.sampled_from([1, 2, 4]), seed=st.integers(0, 99)
)
def test_each_token_attends_to_those_of_its_text_so_far(way, lengths, heads, shared, seed):
    rows = rows_of(lengths, heads, shared, seed)
    found = way(*rows, batch_of(lengths), heads, causal=True)
    torch.testing.assert_close(found, by_hand(rows, lengths, heads, shared), rtol=1e-5, atol=2e-6)


def test_tokens_that_none_looks_at_look_at_those_before_them():
    lengths, attended = [5, 3], [2, 3]
    rows = rows_of(lengths, 4, 2, 0)
    batch = replace(batch_of(lengths), attended=torch.tensor(attended))
    found = attention(*rows, batch, 4, causal=True)
    torch.testing.assert_close(found, by_hand(rows, lengths, 4, 2, attended), rtol=1e-5, atol=2e-6)


def test_rows_behind_the_last_text_and_texts_without_tokens_are_let_be():
    rows = [torch.cat([one, torch.full_like(one[:3], float("nan"))]) for one in rows_of([4, 0, 2], 4, 2, 1)]
    for way in (grouped, padded):
        found = way(*rows, batch_of([4, 0, 2]), 4, causal=True)
        torch.testing.assert_close(found[:6], by_hand([one[:6] for one in rows], [4, 0, 2], 4, 2))
        assert len(found) == 9


def test_half_precision_on_cuda_takes_one_causal_call_with_shared_keys(monkeypatch):
    import torch.nn.attention.varlen as kernels

    asked = []

    def stand_in(query, key, value, *bounds, window_size, enable_gqa):
        asked.append((window_size, enable_gqa, query.shape, key.shape, value.shape))
        rows = [part.flatten(1) for part in (query, key, value)]
        return by_hand(rows, bounds[0].diff().tolist(), query.shape[1], query.shape[1] // key.shape[1]).view(
            query.shape
        )

    monkeypatch.setattr(kernels, "varlen_attn", stand_in)
    for shared in (1, 2):
        rows = rows_of([4, 5], 4, shared, 0)
        found = varlen(*rows, batch_of([4, 5]), 4, causal=True)
        torch.testing.assert_close(found, by_hand(rows, [4, 5], 4, shared), rtol=1e-5, atol=2e-6)
    # everything before a token, and nothing behind it
    assert [one[:2] for one in asked] == [((-1, 0), False), ((-1, 0), True)]
    assert asked[1][2:] == ((9, 4, 4), (9, 2, 4), (9, 2, 4))


@pytest.mark.parametrize("way", [grouped, padded])
def test_texts_without_any_token_have_nothing_to_attend_to(way):
    rows = rows_of([0, 0], 4, 2, 0)
    assert way(*rows, batch_of([0, 0]), 4, causal=True).shape == (0, 16)


def test_a_text_with_infinities_does_not_reach_its_neighbour():
    rows = rows_of([3, 5], 4, 1, 2)
    for one in rows:
        one[:3] = float("inf")
    for way in (grouped, padded):
        found = way(*rows, batch_of([3, 5]), 4, causal=True)
        assert bool(found[3:].isfinite().all())


def test_a_row_is_divided_by_its_root_mean_square_and_rounded_once():
    norm = RMSNorm(8, 1e-6)
    norm.weight.data = torch.linspace(0.5, 2, 8)
    x = 3 * torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    exact = x.double() / (x.double().square().mean(1, keepdim=True) + 1e-6).sqrt() * norm.weight.double()
    torch.testing.assert_close(norm(x), exact.float(), rtol=1e-6, atol=1e-6)
    half = x.bfloat16()
    wide = half.double() / (half.double().square().mean(1, keepdim=True) + 1e-6).sqrt() * norm.weight.double()
    assert norm(half).dtype == torch.bfloat16
    assert torch.equal(norm(half), norm.wide(half).bfloat16())
    torch.testing.assert_close(norm(half).double(), wide, rtol=2**-8, atol=0)
    assert norm.double()(x.double()).dtype == torch.float64


def test_turning_keeps_lengths_and_makes_products_see_the_distance_alone():
    rotary, made = Rotary(8, 100.0), torch.Generator().manual_seed(0)
    one, other = (torch.randn(1, 1, 8, generator=made).expand(6, 1, 8) for _ in range(2))
    angles = rotary(torch.tensor([0, 1, 2, 7, 8, 30]))
    first, second = turned(one, *angles)[:, 0], turned(other, *angles)[:, 0]
    torch.testing.assert_close(first.norm(dim=1), one[:, 0].norm(dim=1))
    products = first @ second.T
    torch.testing.assert_close(products[1, 0], products[4, 3])  # both one place apart
    torch.testing.assert_close(first[0], one[0, 0])
    assert abs(float(products[2, 0] - products[1, 0])) > 1e-3
