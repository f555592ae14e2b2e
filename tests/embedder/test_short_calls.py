"""One text, and texts that fit one batch: the same numbers, errors and warnings as by any other way."""

import logging
import threading

import numpy as np
import pytest
import torch

import tercet
import tiny
from tercet.batch import Batch
from tercet.embeddings import Embeddings
from tercet.errors import InputError, PrecisionError

TEXTS = list(tiny.TEXTS)
ALL = ("dense", "sparse", "multivector")
QUERY = "how do I pick a random element?"


@pytest.fixture(scope="module")
def m3(tiny_m3):
    return tercet.load(tiny_m3, precision="float32", device="cpu")


@pytest.mark.parametrize("texts", [TEXTS, tuple(TEXTS), TEXTS[:1], TEXTS[0]])
def test_texts_of_one_window_give_what_a_stream_of_them_gives(m3, texts):
    found = m3.encode(texts, outputs=ALL)
    streamed = Embeddings.concat(m3.stream(iter([texts] if isinstance(texts, str) else texts), outputs=ALL))
    assert found.allclose(streamed, atol=0)


@pytest.mark.minilm
def test_a_query_embeds_the_same_alone_and_in_a_batch_whoever_asks(minilm):
    model = tercet.load(minilm, precision="float32", device="cpu")
    alone = model.encode_query(QUERY).dense
    together = model.encode([QUERY, QUERY]).dense
    assert torch.equal(together[0], together[1])
    torch.testing.assert_close(alone[0], together[0], rtol=0, atol=1e-6)
    assert torch.equal(alone, model.encode_query([QUERY]).dense)


def test_a_few_texts_start_no_thread(m3, monkeypatch):
    started = []
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread))
    assert len(m3.encode(TEXTS)) == len(TEXTS)
    assert started == []


def test_a_result_of_one_batch_can_be_learned_from(m3):
    dense = m3.encode(QUERY, normalize=False).dense
    assert not dense.is_inference()
    weight = torch.ones(dense.shape[1], requires_grad=True)
    (dense @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, dense[0])


def test_a_result_holds_no_more_memory_than_its_columns(m3):
    dense = m3.encode(TEXTS, dimensions=4, normalize=False).dense
    assert dense.untyped_storage().nbytes() == dense.nbytes


def test_texts_of_one_window_that_are_cut_are_told_once(m3, caplog):
    with caplog.at_level(logging.WARNING):
        m3.encode(TEXTS, max_length=5)
    assert caplog.text.count("were longer than 5 tokens and were cut") == 1


@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint8, int])
def test_lengths_and_dimensions_are_integers_of_any_type(m3, tiny_m3, integer):
    found = m3.encode(TEXTS, outputs=ALL, max_length=integer(9), dimensions=integer(4))
    assert found.allclose(m3.encode(TEXTS, outputs=ALL, max_length=9, dimensions=4), atol=0)
    told = m3.provenance(max_length=integer(9), dimensions=integer(4))
    assert (type(told["max_length"]), type(told["dimensions"])) == (int, int)
    assert tercet.load(tiny_m3, precision="float32", device="cpu", max_length=integer(9)).max_length == 9


@pytest.mark.parametrize("value", [True, np.True_, 9.0, np.float32(9), "9", None.__class__])
@pytest.mark.parametrize("name", ["max_length", "dimensions"])
def test_what_is_no_integer_is_refused(m3, name, value):
    with pytest.raises(InputError, match=f"{name} is .*must be a positive integer"):
        m3.encode(TEXTS, **{name: value})


@pytest.mark.parametrize("value", [True, 9.0, 0, "9"])
def test_what_is_no_length_is_refused_before_a_model_is_read(tmp_path, value):
    with pytest.raises((InputError, PrecisionError), match=r"max_length is .*must be a positive integer"):
        tercet.load(tmp_path / "nothing", max_length=value)


def test_a_batch_of_one_text_is_laid_out_as_each_of_several_is():
    one, several = Batch.from_ids([[5, 6, 7]]), Batch.from_ids([[5, 6, 7], [8]])
    assert one.token_ids.tolist() == several.token_ids[:3].tolist()
    assert one.position_ids.tolist() == several.position_ids[:3].tolist()
    assert one.cu_seqlens.tolist() == several.cu_seqlens[:2].tolist()
    for field in ("token_ids", "position_ids", "cu_seqlens"):
        assert getattr(one, field).dtype == getattr(several, field).dtype
    assert one.lengths == (3,)
