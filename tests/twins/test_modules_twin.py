"""Modules over token vectors, against sentence-transformers' results for each text alone."""

import numpy as np
import pytest

import tercet
from recorder import modules

OPTIONS = {"truncate_dim": "dimensions", "normalize_embeddings": "normalize"}
# Largest distance to float32 as a part of the length of the vectors, of bodies in a half format: twice what
# the least stable of these stacks shows, a maximum over an LSTM of two layers.
DRIFT = {"float16": 1e-2, "bfloat16": 8e-2}


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("modules")


def encoded(folder, case, precision):
    model = tercet.load(folder, precision=precision, device="cpu")
    options = {OPTIONS.get(key, key): value for key, value in case.encode.items()}
    return model.encode(modules.TEXTS, **options).numpy().dense


@pytest.mark.parametrize("case", modules.STACKS, ids=lambda case: case.name)
def test_a_stack_with_modules_over_tokens_embeds_as_in_sentence_transformers(case, peer, tmp_path):
    found = encoded(modules.write(tmp_path / "model", case.name), case, "float32")
    assert found.shape == peer[case.name].shape
    np.testing.assert_allclose(found, peer[case.name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", modules.STACKS, ids=lambda case: case.name)
def test_a_half_precise_body_stays_within_its_drift(case, precision, stored, tmp_path):
    folder = modules.write(tmp_path / "model", case.name, dtype=stored)
    exact, found = (encoded(folder, case, name).astype(np.float64) for name in ("float32", precision))
    distance = np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert distance.max() <= DRIFT[precision]


@pytest.mark.parametrize("case", modules.ROUTED, ids=lambda case: case.name)
def test_each_route_embeds_as_in_sentence_transformers(case, peer, tmp_path):
    model = tercet.load(modules.write(tmp_path / "model", case.name), precision="float32", device="cpu")
    by_task = {None: model.encode, "query": model.encode_query, "document": model.encode_document}
    for task in modules.TASKS:
        expected = peer[f"{case.name}/{task}"]
        for found in (by_task[task](modules.TEXTS), model.encode(modules.TEXTS, task=task)):
            np.testing.assert_allclose(found.numpy().dense, expected, rtol=1e-5, atol=1e-5)
    routes = [peer[f"{case.name}/{task}"] for task in ("query", "document")]
    assert np.abs(routes[0] - routes[1]).max() > 0.1


def test_every_recorded_stack_with_modules_is_compared(peer):
    routed = [f"{case.name}/{task}" for case in modules.ROUTED for task in modules.TASKS]
    assert sorted(peer) == sorted([*(case.name for case in modules.STACKS), *routed])
