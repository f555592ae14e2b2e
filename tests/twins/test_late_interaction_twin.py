"""Models of late interaction against sentence-transformers' MultiVectorEncoder, and against PyLate.

PyLate was recorded in an environment of its own (tests/recorder/record_pylate.py), with versions of
sentence-transformers and transformers that cannot stand beside those of the other twins.
"""

from pathlib import Path

import numpy as np
import pytest

import tercet
from recorder import late_cases

PYLATE = Path(__file__).parent.parent / "recorded" / "pylate.npz"
# Largest 1 - cosine of a vector to float32's: twice what the worst token of these random models shows.
DRIFT = {"float16": 6e-5, "bfloat16": 3e-3}


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("late")


@pytest.fixture(scope="module")
def pylate():
    with np.load(PYLATE) as arrays:
        return dict(arrays)


def load(folder, name, precision="float32", **settings):
    return tercet.load(late_cases.write(folder, name, **settings), precision=precision, device="cpu")


def vectors(model, task):
    encode = model.encode_query if task == "query" else model.encode_document
    return encode(late_cases.TEXTS).multivector


def compared(found, arrays, key):
    np.testing.assert_array_equal(found.lengths, arrays[f"{key}/rows"])
    ours, theirs = found.vectors.numpy(), arrays[f"{key}/vectors"]
    if late_cases.CASES[key.rsplit("/", 1)[0]].pooling is not None:
        # Means of clusters are in an order of no meaning, which late interaction does not see.
        ours, theirs = (by_text(rows, arrays[f"{key}/rows"]) for rows in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def by_text(vectors, counts):
    """The vectors of each text in the order of their first numbers."""
    texts = np.split(vectors, np.cumsum(counts)[:-1])
    return np.concatenate([rows[np.argsort(rows[:, 0])] for rows in texts])


@pytest.mark.parametrize("name", late_cases.CASES)
def test_late_interaction_embeds_as_in_sentence_transformers(name, peer, tmp_path):
    model = load(tmp_path / "model", name)
    assert model.outputs == ("multivector",)
    for task in late_cases.TASKS:
        compared(vectors(model, task), peer, f"{name}/{task}")


@pytest.mark.parametrize("name", late_cases.PYLATE)
def test_late_interaction_embeds_as_in_pylate(name, pylate, tmp_path):
    model = load(tmp_path / "model", name)
    for task in late_cases.TASKS:
        compared(vectors(model, task), pylate, f"{name}/{task}")


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["multi-vector", "multi-vector of mpnet", "pylate", "colbert"])
def test_late_interaction_in_a_half_format_stays_within_its_drift(name, precision, stored, tmp_path):
    exact = load(tmp_path / "model", name, dtype=stored)
    half = tercet.load(tmp_path / "model", precision=precision, device="cpu")
    for task in late_cases.TASKS:
        ours, found = (vectors(model, task).vectors.double() for model in (exact, half))
        assert float((1 - (ours * found).sum(dim=1)).max()) <= DRIFT[precision]


def test_every_recorded_model_of_late_interaction_is_compared(peer, pylate):
    for arrays, names in ((peer, late_cases.CASES), (pylate, late_cases.PYLATE)):
        assert {key.rsplit("/", 2)[0] for key in arrays} == set(names)
