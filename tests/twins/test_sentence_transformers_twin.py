import numpy as np
import pytest

import tercet
from recorder import cases

# sentence-transformers' word -> ours
OPTIONS = {"truncate_dim": "dimensions", "normalize_embeddings": "normalize"}


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("sentence_transformers")


@pytest.mark.parametrize("case", cases.STACKS, ids=lambda case: case.name)
def test_a_stack_embeds_as_in_sentence_transformers(case, peer, tmp_path):
    model = tercet.load(cases.write(tmp_path, case.name), precision="float32", device="cpu")
    options = {OPTIONS.get(key, key): value for key, value in case.encode.items()}
    found = model.encode(cases.TEXTS, **options).numpy().dense
    expected = peer[case.name]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)


def test_every_recorded_stack_is_compared(peer):
    assert sorted(peer) == sorted(case.name for case in cases.STACKS)


@pytest.mark.minilm
def test_the_packaged_minilm_embeds_two_hundred_real_texts_as_in_sentence_transformers(
    recorded, real_texts, minilm
):
    model = tercet.load(minilm, precision="float32", device="cpu")
    found = model.encode(real_texts)
    expected = recorded("minilm")
    dense = found.numpy().dense.astype(np.float64)
    theirs = expected["dense"].astype(np.float64)
    cosine = (dense * theirs).sum(axis=1) / np.linalg.norm(dense, axis=1) / np.linalg.norm(theirs, axis=1)
    assert len(real_texts) == 200
    assert cosine.min() >= 0.999999
    assert np.abs(dense - theirs).max() <= 1e-5
    assert found.num_tokens.tolist() == expected["num_tokens"].tolist()
    # the trap of this model's tokenizer.json, which by itself cuts and pads at 128
    assert (found.num_tokens > 128).sum() >= 20
    assert found.truncated.sum() >= 5
    assert bool((found.num_tokens[found.truncated] == 256).all())
    assert found.num_tokens.min() == 2
