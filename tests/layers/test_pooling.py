import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.batch import Batch
from tercet.layers.one_thread import ONE_THREAD
from tercet.layers.pooling import POOLING_MODES, pool, pool_at_once, pool_by_text


def of_lengths(*lengths: int) -> Batch:
    return Batch.from_ids([[0] * length for length in lengths])


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
    batch = of_lengths(*lengths)
    wanted = torch.stack([by_hand(rows, mode, skip) for rows in hidden.split(lengths)])
    for way in (pool_by_text, pool_at_once):
        found = way(hidden, batch, mode, torch.float64, skip)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", POOLING_MODES)
@given(
    texts=st.lists(st.tuples(st.integers(4, 9), st.integers(0, 3)), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
def test_texts_may_have_prompts_of_their_own_lengths(mode, texts, seed):
    lengths, skips = zip(*texts, strict=True)
    hidden = torch.randn(sum(lengths), 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rows = zip(hidden.split(lengths), skips, strict=True)
    wanted = torch.stack([by_hand(text, mode, skip) for text, skip in rows])
    for way in (pool_by_text, pool_at_once):
        found = way(hidden, of_lengths(*lengths), mode, torch.float64, skips)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("way", [pool_by_text, pool_at_once])
def test_a_text_that_is_all_prompt_gives_zeros_or_its_first_token(way):
    hidden, batch = torch.ones(5, 3), of_lengths(2, 3)
    assert way(hidden, batch, "mean", torch.float32, 2)[0].tolist() == [0, 0, 0]
    assert way(hidden, batch, "lasttoken", torch.float32, 2)[0].tolist() == [0, 0, 0]
    assert way(hidden, batch, "max", torch.float32, 2)[0].tolist() == [0, 0, 0]
    assert way(hidden, batch, "cls", torch.float32, 2)[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("way", [pool_by_text, pool_at_once])
@pytest.mark.parametrize("mode", POOLING_MODES)
def test_pooling_of_half_precision_works_in_float32(mode, way):
    hidden = torch.full((3000, 2), 60000.0, dtype=torch.float16)
    found = way(hidden, of_lengths(3000), mode, torch.float32)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_a_text_pools_to_the_same_bits_alone_and_beside_others(mode):
    lengths = [1, 40, 7, 300]
    hidden = torch.randn(sum(lengths), 384, generator=torch.Generator().manual_seed(3))
    together = pool(hidden, of_lengths(*lengths), mode, torch.float32)
    alone = [pool(rows, of_lengths(len(rows)), mode, torch.float32) for rows in hidden.split(lengths)]
    assert torch.equal(torch.cat(alone), together)


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_one_text_pools_into_memory_of_its_own(mode):
    hidden = torch.zeros(2, 3)
    found = pool(hidden, of_lengths(2), mode, torch.float32)
    hidden += 1
    assert found.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_no_texts_give_no_vectors(mode):
    assert pool(torch.empty(0, 7), of_lengths(), mode, torch.float32).shape == (0, 7)


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_pooling_at_once_asks_nothing_of_its_device(mode):
    """A tensor without values has none that the host could wait for."""
    batch = of_lengths(4, 5).to(torch.device("meta"))
    found = pool(torch.empty(9, 6, device="meta", dtype=torch.bfloat16), batch, mode, torch.float32)
    assert (found.shape, found.dtype) == ((2, 6), torch.float32)


@pytest.mark.parametrize("mode", ["mean", "mean_sqrt_len_tokens"])
def test_a_long_text_is_added_up_by_parts_to_the_same_and_alone_as_beside_others(mode):
    generator = torch.Generator().manual_seed(0)
    lengths = (3, ONE_THREAD // 256 + 1, 0, 1000)
    hidden = torch.randn(sum(lengths), 256, generator=generator)
    found = pool_by_text(hidden, of_lengths(*lengths), mode, torch.float32)
    wanted = pool_at_once(hidden.double(), of_lengths(*lengths), mode, torch.float64)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-6)
    for number, rows in enumerate(hidden.split(lengths)):
        alone = pool_by_text(rows, of_lengths(len(rows)), mode, torch.float32)
        assert torch.equal(alone[0], found[number])
