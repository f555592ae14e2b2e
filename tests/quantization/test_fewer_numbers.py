import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from tercet.embeddings import MultiVectors
from tercet.errors import InputError
from tercet.quantization import pool_tokens, truncate, truncate_multivectors
from tercet.quantization.clusters import ward


def multivectors(*lengths, dim=16, seed=0, dtype=torch.float32):
    rows = torch.randn(sum(lengths), dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = torch.nn.functional.normalize(rows, dim=1).to(dtype)
    return MultiVectors(rows, torch.tensor([0, *lengths]).cumsum(0))


def test_a_shortened_vector_is_its_first_dimensions_at_unit_length():
    vectors = torch.tensor([[3.0, 4.0, 12.0], [0.0, 0.0, 1.0]])
    assert torch.allclose(truncate(vectors, 2), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_shortened_vector_keeps_its_dtype_and_large_ones_do_not_overflow(dtype):
    vectors = torch.full((1, 8), 30_000.0, dtype=dtype)
    found = truncate(vectors, 4)
    assert found.dtype == dtype
    assert found.tolist() == [[0.5] * 4]


@pytest.mark.parametrize("dimensions", [0, -1, 17])
def test_dimensions_that_are_not_there_are_refused(dimensions):
    with pytest.raises(InputError, match=rf"dimensions is {dimensions}, the vectors are \(5, 16\)"):
        truncate_multivectors(multivectors(2, 3), dimensions)


@pytest.mark.parametrize("items", [2, 3, 10, 57, 120])
@pytest.mark.parametrize("seed", range(3))
def test_clusters_are_those_of_scipys_ward(items, seed):
    rows = multivectors(items, seed=seed, dim=6).vectors.double().numpy()
    distances = np.clip(1 - rows @ rows.T, 0, 2)
    distances = np.minimum(distances, distances.T)
    tree = linkage(squareform(distances, checks=False), method="ward")
    for clusters in {1, 2, items // 2 or 1, items - 1 or 1, items}:
        found = ward(distances.copy(), clusters)
        theirs = fcluster(tree, t=clusters, criterion="maxclust")
        assert np.array_equal(found[:, None] == found, theirs[:, None] == theirs)
        assert found[0] == 0
        assert sorted(set(found.tolist())) == list(range(clusters))


@pytest.mark.parametrize("clusters", [1, 2, 3, 7])
def test_items_that_are_all_equally_near_still_make_as_many_clusters_as_asked(clusters):
    distances = np.ones((7, 7)) - np.eye(7)
    assert len(set(ward(distances, clusters).tolist())) == clusters
    assert len(set(ward(np.zeros((7, 7)), clusters).tolist())) == clusters


@pytest.mark.parametrize(
    ("factor", "expected"), [(1, [1, 5, 12, 0]), (1.5, [1, 3, 8, 0]), (2, [1, 2, 6, 0]), (100, [1, 1, 1, 0])]
)
def test_pooling_leaves_a_text_its_share_of_vectors_and_never_none(factor, expected):
    pooled = pool_tokens(multivectors(1, 5, 12, 0), factor)
    assert pooled.lengths.tolist() == expected
    torch.testing.assert_close(pooled.vectors.norm(dim=1), torch.ones(sum(expected)))


def test_vectors_that_say_the_same_become_one_and_stand_where_the_first_stood():
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    near = torch.nn.functional.normalize(torch.tensor([0.1, 1.0]), dim=0)
    rows = MultiVectors(torch.stack([near, east, north, east]), torch.tensor([0, 4]))
    pooled = pool_tokens(rows, 2).vectors
    between = torch.nn.functional.normalize(near + north, dim=0)
    torch.testing.assert_close(pooled, torch.stack([between, east]))


def test_protected_rows_stay_as_they_are_and_are_not_counted():
    given = multivectors(9, 1, 2)
    pooled = pool_tokens(given, 4, protected=1)
    assert pooled.lengths.tolist() == [3, 1, 2]
    for before, after in zip(given, pooled, strict=True):
        assert torch.equal(before.vectors[0], after.vectors[0])


def test_a_text_is_pooled_the_same_alone_and_among_others():
    given = multivectors(30, 17, 4)
    together = pool_tokens(given, 3)
    for text in range(3):
        assert torch.equal(together[text].vectors, pool_tokens(given[text], 3).vectors)


def test_half_precision_is_pooled_in_float32_and_stays_half():
    given = multivectors(40, dtype=torch.float16)
    pooled = pool_tokens(given, 2)
    wide = pool_tokens(MultiVectors(given.vectors.float(), given.offsets), 2)
    assert pooled.vectors.dtype == torch.float16
    torch.testing.assert_close(pooled.vectors, wide.vectors.half())


@pytest.mark.parametrize("factor", [0, 0.5, -2, float("nan"), float("inf")])
def test_factors_that_cannot_be_are_refused(factor):
    with pytest.raises(InputError, match="pool_factor is"):
        pool_tokens(multivectors(4), factor)


def test_rows_that_are_not_finite_and_a_negative_protection_are_refused():
    given = multivectors(4)
    with pytest.raises(InputError, match="protected is -1"):
        pool_tokens(given, 2, protected=-1)
    given.vectors[2, 3] = torch.inf
    with pytest.raises(InputError, match="Row 2 of the multi-vectors is not finite"):
        pool_tokens(given, 2)
