import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.batch import Batch
from tercet.layers.attention import attention, grouped, padded

EVERYWHERE = [grouped, padded]


def batch_of(lengths):
    return Batch.from_ids([[1] * length for length in lengths])


def by_hand(qkv: torch.Tensor, lengths: list[int], heads: int) -> torch.Tensor:
    """softmax(q k' / sqrt(d)) v, one text and one head at a time."""
    hidden = qkv.shape[1] // 3
    width = hidden // heads
    parts = []
    for rows in qkv.split(lengths):
        query, key, value = rows.split(hidden, dim=1)
        columns = [slice(head * width, (head + 1) * width) for head in range(heads)]
        mixed = [(query[:, c] @ key[:, c].T / width**0.5).softmax(1) @ value[:, c] for c in columns]
        parts.append(torch.cat(mixed, dim=1))
    return torch.cat(parts)


@pytest.mark.parametrize("way", EVERYWHERE)
@given(
    lengths=st.lists(st.sampled_from([1, 2, 2, 3, 17, 33]), min_size=1, max_size=6),
    heads=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 99),
)
def test_each_text_attends_to_itself_alone(way, lengths, heads, seed):
    qkv = torch.randn(sum(lengths), 3 * 4 * heads, generator=torch.Generator().manual_seed(seed))
    found = way(*qkv.chunk(3, dim=1), batch_of(lengths), heads)
    torch.testing.assert_close(found, by_hand(qkv.double(), lengths, heads).float(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("way", EVERYWHERE)
def test_rows_behind_the_last_text_come_out_as_zeros_and_change_nothing(way):
    qkv = torch.randn(12, 24)
    found = way(*qkv.chunk(3, dim=1), batch_of([4, 5]), 2)
    apart = [part.contiguous() for part in qkv[:9].chunk(3, dim=1)]
    torch.testing.assert_close(found[:9], way(*apart, batch_of([4, 5]), 2))
    assert not found[9:].any()


def test_a_padded_step_reads_from_the_device_alone_where_texts_begin_and_end():
    """So a captured graph serves every batch: its numbers of texts and rows are upper bounds."""
    qkv = torch.randn(12, 24)
    wanted = padded(*qkv.chunk(3, dim=1), batch_of([4, 5]), 2)
    bounds = torch.tensor([0, 4, 9, 9, 9], dtype=torch.int32)
    larger = Batch(torch.zeros(12), torch.zeros(12), bounds, lengths=(12, 0, 0, 0))
    found = padded(*qkv.chunk(3, dim=1), larger, 2)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_texts_without_rows_may_lie_behind_the_last_row():
    qkv = torch.randn(9, 24)
    found = padded(*qkv.chunk(3, dim=1), batch_of([4, 5, 0]), 2)
    wanted = padded(*qkv.chunk(3, dim=1), batch_of([4, 5]), 2)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("way", EVERYWHERE)
@pytest.mark.parametrize("bad", [0, 1])
def test_a_value_that_is_not_finite_stays_in_its_text(way, bad):
    qkv = torch.randn(9, 24)
    wanted = way(*qkv.chunk(3, dim=1), batch_of([2, 7]), 2)
    rows = [slice(0, 2), slice(2, 9)]
    qkv[rows[bad]] = float("nan")
    found = way(*qkv.chunk(3, dim=1), batch_of([2, 7]), 2)
    assert found[rows[bad]].isnan().all()
    torch.testing.assert_close(found[rows[1 - bad]], wanted[rows[1 - bad]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_dtype_of_the_input_comes_out(dtype):
    qkv = torch.randn(9, 24).to(dtype)
    found = attention(*qkv.chunk(3, dim=1), batch_of([4, 5]), 2)
    assert found.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6}.get(dtype, 3e-2)
    torch.testing.assert_close(
        found.double(), by_hand(qkv.double(), [4, 5], 2), rtol=tolerance, atol=tolerance
    )


def test_half_precision_on_cuda_takes_one_call_for_the_whole_batch(monkeypatch):
    import torch.nn.attention.varlen as kernels

    from tercet.layers.attention import varlen

    def stand_in(query, key, value, query_bounds, key_bounds, longest_query, longest_key):
        assert query_bounds is key_bounds
        assert query_bounds.dtype == torch.int32
        assert (longest_query, longest_key) == (5, 5)
        qkv = torch.cat([part.flatten(1) for part in (query, key, value)], dim=1)
        return by_hand(qkv, query_bounds.diff().tolist(), query.shape[1]).view(query.shape)

    monkeypatch.setattr(kernels, "varlen_attn", stand_in)
    qkv = torch.randn(9, 24)
    found = varlen(*qkv.chunk(3, dim=1), batch_of([4, 5]), 2)
    torch.testing.assert_close(found, by_hand(qkv, [4, 5], 2))


def test_other_devices_take_the_padded_step_which_asks_nothing_of_them():
    """A tensor without values has none that the host could wait for: MPS, and captured graphs on CUDA."""
    batch = batch_of([4, 5]).to(torch.device("meta"))
    found = attention(*torch.empty(12, 24, device="meta").chunk(3, dim=1), batch, 2)
    assert (found.shape, found.device.type) == ((12, 8), "meta")
