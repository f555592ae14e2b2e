"""Lean sparse scores against the dense formula: scatter amax into (texts, vocabulary), then a product."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from largest_tensor import LargestTensor
from tercet.embeddings import SparseVectors
from tercet.errors import InputError
from tercet.training.sparse_scores import num_zero, pool_tokens, sparse_group_scores, sparse_scores

VOCABULARY = 12
SPECIAL = torch.tensor([0, 3])


def dense_pool(token_ids: Tensor, weights: Tensor, cu_seqlens: Tensor) -> Tensor:
    """(texts, vocabulary), plainly."""
    rows = []
    for start, end in zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True):
        row = weights.new_zeros(VOCABULARY)
        rows.append(row.scatter_reduce(0, token_ids[start:end], weights[start:end], "amax"))
    return torch.stack(rows) * (~torch.isin(torch.arange(VOCABULARY), SPECIAL))


@st.composite
def texts(draw: st.DrawFn, most: int = 5):
    """Token ids, weights with many ties and zeros, and where texts begin; texts without tokens too."""
    lengths = draw(st.lists(st.integers(0, 8), min_size=1, max_size=most))
    tokens = sum(lengths)
    ids = draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=tokens, max_size=tokens))
    steps = draw(st.lists(st.integers(-1, 3), min_size=tokens, max_size=tokens))
    weights = (torch.tensor(steps, dtype=torch.float32) / 2).requires_grad_()
    return torch.tensor(ids, dtype=torch.int64), weights, torch.tensor([0, *lengths]).cumsum(0)


def lean(side: tuple[Tensor, Tensor, Tensor]) -> SparseVectors:
    ids, weights, cu_seqlens = side
    return pool_tokens(ids, weights, cu_seqlens, vocabulary=VOCABULARY, special_ids=SPECIAL)


@given(texts(), texts(), st.sampled_from([1, 64, 1 << 20]), st.integers(0, 99))
def test_scores_and_gradients_are_those_of_the_dense_formula(queries, passages, block_bytes, seed):
    scores = sparse_scores(lean(queries), lean(passages), block_bytes=block_bytes)
    expected = dense_pool(*queries) @ dense_pool(*passages).T
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-6)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(seed))
    found = torch.autograd.grad((scores * upstream).sum(), [queries[1], passages[1]])
    wanted = torch.autograd.grad((expected * upstream).sum(), [queries[1], passages[1]])
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@given(texts(most=3), st.integers(1, 3), st.data())
def test_scores_of_groups_are_entries_of_all_scores(queries, group, data):
    count = len(queries[2]) - 1
    lengths = data.draw(st.lists(st.integers(0, 5), min_size=count * group, max_size=count * group))
    tokens = sum(lengths)
    ids = torch.arange(tokens) * 7 % VOCABULARY
    weights = (torch.arange(tokens) % 3).float().requires_grad_()
    right = lean((ids, weights, torch.tensor([0, *lengths]).cumsum(0)))
    left = lean(queries)
    own = sparse_group_scores(left, right)
    everything = sparse_scores(left, right)
    columns = torch.arange(count)[:, None] * group + torch.arange(group)
    expected = everything.gather(1, columns)
    torch.testing.assert_close(own, expected)
    upstream = torch.arange(1.0, own.numel() + 1).view_as(own)
    found = torch.autograd.grad((own * upstream).sum(), [queries[1], weights], retain_graph=True)
    wanted = torch.autograd.grad((expected * upstream).sum(), [queries[1], weights])
    torch.testing.assert_close(found, wanted)


def test_equal_repeats_share_the_gradient_and_special_tokens_get_none():
    weights = torch.tensor([2.0, 2.0, 1.0, 9.0], requires_grad=True)
    side = (torch.tensor([5, 5, 5, 3]), weights, torch.tensor([0, 4]))
    vectors = lean(side)
    assert vectors.token_ids.tolist() == [5]
    vectors.weights.sum().backward()
    assert weights.grad.tolist() == [0.5, 0.5, 0.0, 0.0]


def test_entries_depend_on_the_token_ids_alone():
    side = (torch.tensor([5, 7, 7]), torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0, 3]))
    assert lean(side).token_ids.tolist() == [5, 7]
    assert lean(side).weights.tolist() == [0.0, 1.0]


def test_texts_without_any_weight_are_counted():
    ids, lengths = torch.tensor([5, 7, 5, 0]), torch.tensor([0, 1, 2, 2, 3, 4])
    vectors = lean((ids, torch.tensor([0.0, 1.0, 2.0, 4.0]), lengths))
    # the first has a weight of 0, the third no token, the last a special token alone
    assert int(num_zero(vectors)) == 3


def test_sides_that_share_no_token_score_zero_and_pass_zero_gradients():
    left = torch.tensor([1.0], requires_grad=True)
    right = torch.tensor([1.0], requires_grad=True)
    one = torch.tensor([0, 1])
    scores = sparse_scores(lean((torch.tensor([5]), left, one)), lean((torch.tensor([6]), right, one)))
    scores.sum().backward()
    assert scores.tolist() == [[0.0]]
    assert left.grad.tolist() == right.grad.tolist() == [0.0]


def test_gradients_pass_gradcheck_in_float64():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (20,), generator=generator)
    weights = torch.rand(20, dtype=torch.float64, generator=generator).requires_grad_()

    def scores(values: Tensor) -> Tensor:
        vectors = lean((ids, values, torch.tensor([0, 6, 20])))
        return sparse_scores(vectors, vectors, block_bytes=64)

    assert torch.autograd.gradcheck(scores, (weights,))


def test_no_tensor_grows_with_the_vocabulary_or_past_the_block():
    ids = torch.arange(4000) % 999
    weights = torch.rand(4000, requires_grad=True)
    bounds = torch.arange(0, 4001, 100)
    with LargestTensor() as largest:
        vectors = pool_tokens(ids, weights, bounds, vocabulary=1 << 40, special_ids=SPECIAL)
        sparse_scores(vectors, vectors, block_bytes=4096).sum().backward()
    # token ids of all tokens, in int64; nothing else is as large
    assert largest.bytes <= 4000 * 8


def test_half_precision_weights_are_scored_in_float32_whatever_autocast_says():
    weights = torch.rand(6)
    bounds = torch.tensor([0, 6])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vectors = lean((torch.arange(4, 10), weights, bounds))
        scores = sparse_scores(vectors, vectors)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores[0, 0], (weights**2).sum())
    assert lean((torch.arange(4, 10), weights.half(), bounds)).weights.dtype == torch.float32


def test_weights_of_another_shape_than_the_ids_are_refused():
    with pytest.raises(InputError, match=r"\(3,\) and \(3, 1\). Squeeze"):
        lean((torch.tensor([5, 6, 7]), torch.ones(3, 1), torch.tensor([0, 3])))


def test_two_vocabularies_do_not_meet():
    left = SparseVectors.empty(10)
    with pytest.raises(InputError, match=r"10 and 11\. Train both sides with one tokenizer"):
        sparse_scores(left, SparseVectors.empty(11))
