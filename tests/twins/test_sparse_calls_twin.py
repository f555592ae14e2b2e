import numpy as np
import pytest

from recorder import sentence_calls, sparse_calls
from tercet.compat import SparseEncoder


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("sparse_calls")


@pytest.mark.parametrize("name", sparse_calls.FOLDERS)
def test_every_call_is_answered_as_by_sentence_transformers(name, peer, tmp_path):
    found = sparse_calls.answers(SparseEncoder, sparse_calls.write(tmp_path, name))
    start = f"{name}/"
    expected = {key.removeprefix(start): value for key, value in peer.items() if key.startswith(start)}
    assert sorted(found) == sorted(expected)
    for call, ours in found.items():
        theirs = expected[call]
        assert ours.shape == theirs.shape, call
        assert ours.dtype.kind == theirs.dtype.kind, call
        if ours.dtype.kind == "f":
            assert ours.dtype == theirs.dtype, call
            scale = max(1.0, float(np.abs(theirs).max(initial=0.0)))
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * scale, err_msg=call)
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=call)


@pytest.mark.parametrize("method", sparse_calls.METHODS)
def test_every_method_takes_what_the_peers_takes_by_place_and_default(method, peer):
    theirs = peer[f"signature/{method}"].tolist()
    ours = sentence_calls.signature(SparseEncoder, method).tolist()
    assert ours[: len(theirs)] == theirs
    # What is more was among its further keywords.
    assert set(ours[len(theirs) :]) <= {"task=None", "processing_kwargs=None"}
