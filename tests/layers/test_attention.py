import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.layers.attention import attention


def by_hand(qkv: torch.Tensor, lengths: list[int], heads: int) -> torch.Tensor:
    """softmax(q k' / sqrt(d)) v, one text and one head at a time."""
    hidden = qkv.shape[1] // 3
    width = hidden // heads
    parts = []
    for rows in qkv.split(lengths):
        query, key, value = rows.split(hidden, dim=1)
        columns = [slice(head * width, (head + 1) * width) for head in range(heads)]
        parts.append(
            torch.cat(
                [(query[:, c] @ key[:, c].T / width**0.5).softmax(1) @ value[:, c] for c in columns], dim=1
            )
        )
    return torch.cat(parts)


@given(
    lengths=st.lists(st.sampled_from([1, 2, 2, 3, 17, 33]), min_size=1, max_size=6),
    heads=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 99),
)
def test_each_text_attends_to_itself_alone(lengths, heads, seed):
    qkv = torch.randn(sum(lengths), 3 * 4 * heads, generator=torch.Generator().manual_seed(seed))
    found = attention(qkv, tuple(lengths), heads)
    torch.testing.assert_close(found, by_hand(qkv.double(), lengths, heads).float(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_dtype_of_the_input_comes_out(dtype):
    qkv = torch.randn(9, 24).to(dtype)
    found = attention(qkv, (4, 5), 2)
    assert found.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6}.get(dtype, 3e-2)
    torch.testing.assert_close(
        found.double(), by_hand(qkv.double(), [4, 5], 2), rtol=tolerance, atol=tolerance
    )
