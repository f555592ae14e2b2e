import numpy as np
import pytest
import torch

import tercet
from recorder import cases
from tercet.embeddings import MultiVectors, SparseVectors
from tercet.scoring import PairScores, score_pairs

OUTPUTS = ("dense", "sparse", "multivector")
SCORES = ("colbert", "sparse", "dense", "sparse+dense", "colbert+sparse+dense")
WEIGHTS = (0.4, 0.2, 0.4)
SCORED = [name for name, case in cases.M3.items() if "truncate_dim" not in case.options]


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("flagembedding")


@pytest.fixture
def encode(tmp_path):
    def encode(name, texts):
        case = cases.M3[name]
        model = tercet.load(cases.write(tmp_path, name), precision="float32", device="cpu")
        return model.encode(
            texts,
            outputs=OUTPUTS,
            max_length=case.max_length,
            dimensions=case.options.get("truncate_dim"),
            normalize=case.options.get("normalize_embeddings"),
        )

    return encode


def close(found, expected, name):
    """Within 1e-5; of vectors that are not normalised, within 1e-5 of their largest number."""
    scale = 1.0 if "not normalised" not in name else max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)


def offsets(lengths):
    return torch.tensor([0, *lengths]).cumsum(0)


@pytest.mark.parametrize("name", cases.M3)
def test_three_outputs_are_those_of_flagembedding(name, peer, encode):
    found = encode(name, cases.TEXTS)
    close(found.numpy().dense, peer[f"{name}/dense"], name)

    theirs = SparseVectors(
        torch.from_numpy(peer[f"{name}/token_ids"]),
        torch.from_numpy(peer[f"{name}/weights"]),
        offsets(peer[f"{name}/entries"].tolist()),
        found.sparse.vocabulary,
    )
    assert found.sparse.allclose(theirs, atol=1e-5)
    assert len(theirs.token_ids) > 0

    vectors = MultiVectors(torch.from_numpy(peer[f"{name}/vectors"]), offsets(peer[f"{name}/rows"].tolist()))
    assert found.multivector.lengths.tolist() == vectors.lengths.tolist() == (found.num_tokens - 1).tolist()
    close(found.multivector.numpy().vectors, vectors.numpy().vectors, name)


@pytest.mark.parametrize("name", SCORED)
def test_scores_of_pairs_are_those_of_flagembedding_without_padding(name, peer, encode):
    queries, documents = (encode(name, [pair[side] for pair in cases.PAIRS]) for side in (0, 1))
    found = score_pairs(queries, documents, weights=WEIGHTS).to_dict()
    assert tuple(found) == SCORES
    for key in SCORES:
        close(np.array(found[key]), peer[f"{name}/alone/{key}"], name)


@pytest.mark.parametrize("name", SCORED)
def test_with_padding_flagembedding_floors_each_best_match_at_zero_and_we_do_not(name, peer, encode):
    queries, documents = (encode(name, [pair[side] for pair in cases.PAIRS]) for side in (0, 1))
    ours = score_pairs(queries, documents, weights=WEIGHTS)
    longest = int(documents.multivector.lengths.max())
    floored = []
    for query, document in zip(queries.multivector, documents.multivector, strict=True):
        best = (query.vectors @ document.vectors.T).amax(dim=1)
        padded = len(document.vectors) < longest
        floored.append((best.clamp(min=0) if padded else best).mean())
    theirs = PairScores.of(ours.dense, ours.sparse, torch.stack(floored), WEIGHTS).to_dict()
    for key in SCORES:
        close(np.array(theirs[key]), peer[f"{name}/padded/{key}"], name)
    # Both are means of float32 products, summed in different orders: room for the rounding of such numbers.
    rounding = 1e-6 * torch.stack(floored).abs().clamp(min=1.0)
    assert bool((ours.multivector <= torch.stack(floored) + rounding).all())


def test_the_difference_of_the_floor_is_really_seen(peer):
    name = "m3 with matches below zero"
    alone, padded = peer[f"{name}/alone/colbert"], peer[f"{name}/padded/colbert"]
    assert alone.min() < -0.01
    assert padded.min() >= 0
    assert (padded >= alone - 1e-6).all()
    assert (padded - alone).max() > 0.1
