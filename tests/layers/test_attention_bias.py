import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tercet.batch import Batch
from tercet.layers import attention as layer
from tercet.layers.attention import attention, grouped, padded

EVERYWHERE = [grouped, padded]


def batch_of(lengths):
    return Batch.from_ids([[1] * length for length in lengths])


def numbers(tokens, heads, reach, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(tokens, 3 * 4 * heads, generator=generator).to(dtype)
    return qkv.chunk(3, dim=1), torch.randn(heads, 2 * reach + 1, generator=generator).to(dtype)


def by_hand(parts, lengths, heads, bias):
    """softmax(q k' / sqrt(d) + b) v, one text, one head and one pair of tokens at a time."""
    width, reach = parts[0].shape[1] // heads, bias.shape[1] // 2
    found = []
    for query, key, value in zip(*(part.double().split(lengths) for part in parts), strict=True):
        mixed = torch.empty_like(query)
        for head in range(heads):
            c = slice(head * width, (head + 1) * width)
            scores = query[:, c] @ key[:, c].T / width**0.5
            for i in range(len(scores)):
                for j in range(len(scores)):
                    scores[i, j] += bias[head, reach + j - i]
            mixed[:, c] = scores.softmax(1) @ value[:, c]
        found.append(mixed)
    return torch.cat(found)


@pytest.mark.parametrize("way", EVERYWHERE)
@given(
    lengths=st.lists(st.sampled_from([1, 2, 2, 3, 17]), min_size=1, max_size=5),
    heads=st.sampled_from([1, 2, 4]),
    further=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_the_bias_is_that_of_how_far_a_key_is_behind_its_query(way, lengths, heads, further, seed):
    parts, bias = numbers(sum(lengths), heads, max(lengths) - 1 + further, seed)
    found = way(*parts, batch_of(lengths), heads, bias=bias)
    torch.testing.assert_close(found, by_hand(parts, lengths, heads, bias).float(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("way", EVERYWHERE)
def test_no_bias_and_one_of_zeros_are_the_same(way):
    parts, bias = numbers(12, 2, 6)
    found = way(*parts, batch_of([4, 7]), 2, bias=torch.zeros_like(bias))
    torch.testing.assert_close(found, way(*parts, batch_of([4, 7]), 2), rtol=1e-5, atol=1e-6)
    assert not found[11:].any()


@pytest.mark.parametrize("way", EVERYWHERE)
def test_texts_without_rows_change_nothing(way):
    parts, bias = numbers(9, 2, 6)
    found = way(*parts, batch_of([4, 5, 0]), 2, bias=bias)
    wanted = way(*parts, batch_of([4, 5]), 2, bias=bias)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("way", EVERYWHERE)
def test_a_value_that_is_not_finite_stays_in_its_text(way):
    parts, bias = numbers(9, 2, 6)
    wanted = way(*parts, batch_of([2, 7]), 2, bias=bias)
    damaged = [torch.cat([torch.full_like(part[:2], torch.nan), part[2:]]) for part in parts]
    found = way(*damaged, batch_of([2, 7]), 2, bias=bias)
    assert found[:2].isnan().all()
    torch.testing.assert_close(found[2:], wanted[2:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("way", EVERYWHERE)
@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float64, 1e-13), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)]
)
def test_every_dtype_comes_out_as_it_came_in(way, dtype, error):
    parts, bias = numbers(30, 4, 25, dtype=dtype)
    found = way(*parts, batch_of([4, 26]), 4, bias=bias)
    assert found.dtype == dtype
    wanted = by_hand(parts, [4, 26], 4, bias)
    assert float((found.double() - wanted).norm() / wanted.norm()) < error


def test_on_a_cpu_the_native_kernel_is_left_alone_since_it_knows_no_bias():
    parts, bias = numbers(9, 2, 6)
    found = attention(*parts, batch_of([2, 7]), 2, bias=bias)
    assert torch.equal(found, grouped(*parts, batch_of([2, 7]), 2, bias=bias))


@pytest.mark.parametrize("block", [1, 3 * 17 * 17 * 4, 7 * 17 * 17 * 4])
def test_blocks_of_any_size_give_the_same(block, monkeypatch):
    lengths = [17, 3, 9, 17, 1]
    parts, bias = numbers(sum(lengths), 4, 16)
    whole = padded(*parts, batch_of(lengths), 4, bias=bias)
    monkeypatch.setattr(layer, "BIAS_BLOCK_BYTES", block)
    torch.testing.assert_close(padded(*parts, batch_of(lengths), 4, bias=bias), whole, rtol=0, atol=1e-6)


class Storages(TorchDispatchMode):
    """Remembers the largest memory that any operation's result lies in."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for value in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(value, torch.Tensor):
                self.largest = max(self.largest, value.untyped_storage().nbytes())
        return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_cpu_nothing_is_written_out_for_each_pair_of_tokens(dtype):
    parts, bias = numbers(3000, 2, 2999, dtype=dtype)
    with torch.no_grad(), Storages() as seen:
        grouped(*parts, batch_of([3000]), 2, bias=bias)
    assert seen.largest <= 3000 * 3 * 4 * 2 * 4  # what came in; for each pair it would be 36 MB


def test_padded_a_block_is_all_that_is_written_out_for_pairs_of_tokens(monkeypatch):
    lengths = [64] * 12
    parts, bias = numbers(sum(lengths), 2, 63)
    monkeypatch.setattr(layer, "BIAS_BLOCK_BYTES", 3 * 2 * 64 * 64 * 4)
    with torch.no_grad(), Storages() as seen:
        padded(*parts, batch_of(lengths), 2, bias=bias)
    assert seen.largest <= 3 * 2 * 64 * 64 * 4
