import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.layers.pooling import POOLING_MODES, pool


def by_hand(rows: torch.Tensor, mode: str, skip: int) -> torch.Tensor:
    """One text's vector, by the definition of the mode over the tokens that are not skipped."""
    kept = rows[skip:]
    weights = torch.arange(skip + 1, len(rows) + 1, dtype=rows.dtype)[:, None]
    return {
        "cls": lambda: kept[0],
        "max": lambda: kept.max(0).values,
        "mean": lambda: kept.mean(0),
        "mean_sqrt_len_tokens": lambda: kept.sum(0) / len(kept) ** 0.5,
        "weightedmean": lambda: (kept * weights).sum(0) / weights.sum(),
        "lasttoken": lambda: kept[-1],
    }[mode]()


@pytest.mark.parametrize("mode", POOLING_MODES)
@given(
    lengths=st.lists(st.integers(4, 9), min_size=1, max_size=5),
    skip=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_each_mode_is_its_definition_text_by_text(mode, lengths, skip, seed):
    hidden = torch.randn(sum(lengths), 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    found = pool(hidden, cu_seqlens, mode, torch.float64, skip)
    wanted = torch.stack([by_hand(rows, mode, skip) for rows in hidden.split(lengths)])
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_a_text_that_is_all_prompt_gives_what_sentence_transformers_gives():
    hidden = torch.ones(5, 3)
    cu_seqlens = torch.tensor([0, 2, 5], dtype=torch.int32)
    assert pool(hidden, cu_seqlens, "mean", torch.float32, 2)[0].tolist() == [0, 0, 0]
    assert pool(hidden, cu_seqlens, "lasttoken", torch.float32, 2)[0].tolist() == [0, 0, 0]
    assert pool(hidden, cu_seqlens, "max", torch.float32, 2)[0].tolist() == [float("-inf")] * 3
    assert pool(hidden, cu_seqlens, "cls", torch.float32, 2)[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_pooling_of_half_precision_works_in_float32(mode):
    hidden = torch.full((3000, 2), 60000.0, dtype=torch.float16)
    found = pool(hidden, torch.tensor([0, 3000], dtype=torch.int32), mode, torch.float32)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_no_texts_give_no_vectors(mode):
    assert pool(torch.empty(0, 7), torch.zeros(1, dtype=torch.int32), mode, torch.float32).shape == (0, 7)
