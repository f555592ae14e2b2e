"""MaxSim in blocks against the similarities of all tokens with all tokens."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from largest_tensor import LargestTensor
from tercet.embeddings import MultiVectors
from tercet.errors import InputError
from tercet.training.late_scores import late_group_scores, late_scores


def vectors(
    lengths: list[int], seed: int, *, dim: int = 4, dtype: torch.dtype = torch.float64
) -> MultiVectors:
    """Vectors of small whole numbers, so that many maxima are shared."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-2, 3, (sum(lengths), dim), generator=generator).to(dtype)
    return MultiVectors(rows.requires_grad_(), torch.tensor([0, *lengths]).cumsum(0))


def plain(queries: MultiVectors, passages: MultiVectors, reduction: str) -> Tensor:
    """(queries, passages), one at a time."""
    rows = []
    for query in queries:
        for passage in passages:
            if len(query.vectors) == 0 or len(passage.vectors) == 0:
                rows.append((queries.vectors.sum() + passages.vectors.sum()) * 0)
                continue
            best = (query.vectors @ passage.vectors.T).max(dim=1).values
            rows.append(best.mean() if reduction == "mean" else best.sum())
    return torch.stack(rows).view(len(queries), len(passages))


lengths = st.lists(st.integers(0, 6), min_size=1, max_size=4)


@given(
    lengths,
    lengths,
    st.sampled_from(["mean", "sum"]),
    st.sampled_from([8, 99999, 1 << 20]),
    st.booleans(),
    st.integers(0, 99),
)
def test_scores_and_gradients_are_those_of_all_similarities(left, right, reduction, block_bytes, store, seed):
    queries, passages = vectors(left, seed), vectors(right, seed + 1)
    scores = late_scores(
        queries, passages, reduction=reduction, block_bytes=block_bytes, stored_bytes=store << 20
    )
    expected = plain(queries, passages, reduction)
    torch.testing.assert_close(scores, expected)
    upstream = torch.arange(1.0, scores.numel() + 1, dtype=torch.float64).view_as(scores)
    leaves = [queries.vectors, passages.vectors]
    found = torch.autograd.grad((scores * upstream).sum(), leaves)
    wanted = torch.autograd.grad((expected * upstream).sum(), leaves)
    # of equal maxima both give everything to the first
    torch.testing.assert_close(found, wanted)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(1, 3), st.integers(0, 99))
def test_scores_of_groups_are_entries_of_all_scores(left, group, seed):
    queries = vectors(left, seed)
    passages = vectors([(3 * place + seed) % 5 for place in range(len(left) * group)], seed + 1)
    columns = torch.arange(len(left))[:, None] * group + torch.arange(group)
    torch.testing.assert_close(
        late_group_scores(queries, passages), late_scores(queries, passages).gather(1, columns)
    )


def test_more_query_tokens_than_a_block_holds_are_scored_alike():
    queries, passages = (
        vectors([700, 5, 600], 0, dtype=torch.float32),
        vectors([9, 300, 2], 1, dtype=torch.float32),
    )
    scores = late_scores(queries, passages)
    torch.testing.assert_close(scores, plain(queries, passages, "mean"), rtol=1e-5, atol=1e-5)
    scores.sum().backward()
    found = queries.vectors.grad.clone()
    queries.vectors.grad = None
    plain(queries, passages, "mean").sum().backward()
    torch.testing.assert_close(found, queries.vectors.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("store", [True, False])
def test_no_tensor_is_larger_than_the_block(store):
    queries, passages = vectors([64] * 8, 0, dtype=torch.float32), vectors([64] * 64, 1, dtype=torch.float32)
    block = 512 * 64 * 4 * 4  # four passages
    with LargestTensor() as largest:
        late_scores(queries, passages, block_bytes=block, stored_bytes=store << 30).sum().backward()
    # winners come as int64 before they are stored; all similarities would be 8 MiB
    assert block / 2 < largest.bytes <= block


def test_autocast_does_not_reach_the_scores():
    queries, passages = vectors([5], 0, dtype=torch.float32), vectors([7], 1, dtype=torch.float32)
    with torch.no_grad():
        queries.vectors.add_(1 / 512)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = late_scores(queries, passages)
    torch.testing.assert_close(scores, plain(queries, passages, "mean"))


def test_widths_must_agree():
    with pytest.raises(InputError, match=r"one width, not \(tokens, 4\) and \(tokens, 3\)"):
        late_scores(vectors([2], 0), vectors([2], 0, dim=3))


def test_an_unknown_reduction_is_refused():
    with pytest.raises(InputError, match="'mean' or 'sum'"):
        late_scores(vectors([2], 0), vectors([2], 0), reduction="median")
