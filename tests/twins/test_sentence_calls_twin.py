import numpy as np
import pytest

import tercet.compat
from recorder import sentence_calls
from tercet.compat import SentenceTransformer


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("sentence_calls")


def compare(found, peer, name):
    expected = {
        key.removeprefix(f"{name}/"): value for key, value in peer.items() if key.startswith(f"{name}/")
    }
    assert sorted(found) == sorted(expected)
    for call, ours in found.items():
        theirs = expected[call]
        assert ours.shape == theirs.shape, call
        assert ours.dtype == theirs.dtype, call
        if ours.dtype.kind == "f":
            scale = max(1.0, float(np.abs(theirs).max(initial=0.0)))
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * scale, err_msg=call)
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=call)


@pytest.mark.parametrize("name", sentence_calls.FOLDERS)
def test_every_call_is_answered_as_by_sentence_transformers(name, peer, tmp_path):
    folder = sentence_calls.write(tmp_path, name)
    compare(sentence_calls.answers(SentenceTransformer, folder), peer, name)


@pytest.mark.minilm
def test_the_packaged_minilm_answers_as_in_sentence_transformers(peer, minilm, real_texts):
    compare(sentence_calls.real_answers(SentenceTransformer, str(minilm), real_texts[:60]), peer, "minilm")


METHODS = [(name, method) for name, methods in sentence_calls.METHODS.items() for method in methods]


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_every_method_takes_what_sentence_transformers_takes_by_place_and_default(name, method, peer):
    theirs = [one for one in peer[f"signature/{name}.{method}"].tolist() if one != "use_auth_token=None"]
    ours = sentence_calls.signature(getattr(tercet.compat, name), method).tolist()
    assert ours[: len(theirs)] == theirs
    # What is more was among its further keywords.
    assert set(ours[len(theirs) :]) <= {"task=None", "processing_kwargs=None"}
