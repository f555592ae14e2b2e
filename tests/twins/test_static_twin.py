"""Static embeddings, against sentence-transformers'."""

import numpy as np
import pytest

import tercet
from recorder import static

OPTIONS = {"truncate_dim": "dimensions", "normalize_embeddings": "normalize"}


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("static")


@pytest.mark.parametrize("precision", ["auto", "float32", "float64"])
@pytest.mark.parametrize("case", static.CASES, ids=lambda case: case.name)
def test_a_table_embeds_as_in_sentence_transformers(case, precision, peer, tmp_path):
    model = tercet.load(static.write(tmp_path, case.name), precision=precision, device="cpu")
    options = {OPTIONS.get(key, key): value for key, value in case.encode.items()}
    found = model.encode(static.TEXTS, **options).numpy().dense
    expected = peer[case.name]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_every_recorded_table_is_compared(peer):
    assert sorted(peer) == sorted(case.name for case in static.CASES)
