import tracemalloc
import weakref

import pytest
import torch

from tercet.embedder.gathering import gathered
from tercet.embeddings import Embeddings, MultiVectors, SparseVectors


def part(texts: int, seed: int, dtype: torch.dtype = torch.float32) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 4, (texts,), generator=generator)
    offsets = torch.cat([tokens.new_zeros(1), tokens.cumsum(0)])
    ids = torch.cat([torch.arange(int(count)) for count in tokens])
    return Embeddings(
        dense=torch.randn(texts, 6, generator=generator).to(dtype),
        sparse=SparseVectors(ids, torch.rand(len(ids), generator=generator).to(dtype) + 1, offsets, 9),
        multivector=MultiVectors(torch.randn(len(ids), 5, generator=generator).to(dtype), offsets),
        num_tokens=tokens + 2,
        truncated=tokens == 3,
        recomputed=tokens == 1,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("known", [True, False])
def test_parts_are_gathered_to_what_concat_makes_of_them(dtype, known):
    parts = [part(texts, seed, dtype) for seed, texts in enumerate([3, 1, 40, 2, 7])]
    found, wanted = gathered(iter(parts), 53 if known else None), Embeddings.concat(parts)
    assert found.allclose(wanted, atol=0)
    assert found.dense.dtype == found.sparse.weights.dtype == found.multivector.vectors.dtype == dtype
    assert torch.equal(found.truncated, wanted.truncated)
    assert torch.equal(found.recomputed, wanted.recomputed)


def test_outputs_that_are_not_there_stay_away():
    parts = [
        Embeddings(
            torch.ones(1, 2), None, None, torch.ones(1, dtype=torch.int64), *[torch.tensor([False])] * 2
        )
        for _ in range(3)
    ]
    found = gathered(iter(parts))
    assert found.outputs == ("dense",)
    assert found.dense.tolist() == [[1, 1]] * 3


def test_texts_without_any_entry_gather_to_none():
    none = [part(2, 0)[[]] for _ in range(2)]
    found = gathered(iter(none))
    assert len(found) == 0
    assert found.multivector.vectors.shape == (0, 5)


def test_one_part_comes_out_as_it_is_and_no_part_as_none():
    one = part(3, 0)
    assert gathered(iter([one])) is one
    assert gathered(iter([])) is None


@pytest.mark.parametrize("known", [True, False])
def test_gathering_holds_the_result_once_and_lets_go_of_its_parts(known):
    texts, width, parts = 100, 1000, 40
    alive = []

    def made():
        for _ in range(parts):
            assert sum(reference() is not None for reference in alive) <= 2
            dense = torch.ones(texts, width)
            alive.append(weakref.ref(dense))
            flags = torch.zeros(texts, dtype=torch.bool)
            # Positional, so that no name here keeps the vectors.
            yield Embeddings(dense, None, None, torch.ones(texts, dtype=torch.int64), flags, flags)
            del dense

    tracemalloc.start()
    try:
        found = gathered(made(), parts * texts if known else None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    size = parts * texts * width * 4
    assert found.dense.nbytes == size
    assert size <= peak < 1.2 * size
