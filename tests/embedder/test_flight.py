"""Batches in flight, as on a GPU: with streams made up for the CPU."""

import logging

import pytest
import torch

import tercet
import tiny
from lanes import FakeLanes, Race, Watch
from tercet.engines.transfer import Pinned
from tercet.errors import InputError

CPU = torch.device("cpu")
TEXTS = [text for text in tiny.TEXTS if text] * 5
ALL = ("dense", "sparse", "multivector")


def loaded(folder, **options):
    return tercet.load(folder, device="cpu", **{"precision": "float32", "token_budget": 64} | options)


def in_flight(model, lanes=None):
    """The model as if its device were a GPU."""
    model._transfers = Pinned(CPU, FakeLanes() if lanes is None else lanes)
    return model


@pytest.mark.parametrize("output_dtype", ["float32", "float16", "float64"])
def test_embeddings_are_the_same_whether_or_not_batches_are_in_flight(tiny_m3, output_dtype):
    wanted = loaded(tiny_m3, output_dtype=output_dtype).encode(TEXTS, outputs=ALL)
    model = in_flight(loaded(tiny_m3, output_dtype=output_dtype))
    for found in (model.encode(TEXTS, outputs=ALL), model.encode(iter(TEXTS), outputs=ALL)):
        assert found.dense.dtype == wanted.dense.dtype
        assert found.allclose(wanted, atol=0)
        assert torch.equal(found.num_tokens, wanted.num_tokens)


@pytest.mark.parametrize("texts", [[], ["one"]])
def test_no_text_and_one_text_come_out_too(tiny_bert, texts):
    wanted = loaded(tiny_bert).encode(texts)
    assert in_flight(loaded(tiny_bert)).encode(texts).allclose(wanted, atol=0)


def test_the_next_batch_is_begun_before_results_are_waited_for(tiny_bert, monkeypatch):
    lanes, order = FakeLanes(), []
    model = in_flight(loaded(tiny_bert), lanes)
    forward, mark = model._engine.forward, lanes.mark

    def begun(batch):
        order.append("begin")
        return forward(batch)

    def marked(lane):
        synchronise = mark(lane)
        return lambda: order.append("land") or synchronise()

    monkeypatch.setattr(model._engine, "forward", begun)
    monkeypatch.setattr(lanes, "mark", marked)
    batches = sum(1 for _ in model.stream(TEXTS))
    assert batches > 3
    assert order == ["begin", *["begin", "land"] * (batches - 1), "land"]


def test_texts_that_leave_the_range_are_computed_in_float32_and_flagged(tmp_path, caplog):
    folder = tiny.write_checkpoint(tmp_path / "model", "bert", hidden=64)
    plain, flying = loaded(folder, precision="float16"), in_flight(loaded(folder, precision="float16"))
    ids = plain.tokenizer.encode(["paris"], max_length=9, prompt="").ids[0]
    for model in (plain, flying):
        model._engine._encoder.word.weight[ids[1]] = float("inf")
    with caplog.at_level(logging.WARNING):
        found = flying.encode(["a cat", "paris", *TEXTS])
    wanted = plain.encode(["a cat", "paris", *TEXTS])
    assert found.recomputed.tolist() == ["paris" in text.lower() for text in ["a cat", "paris", *TEXTS]]
    assert found.dense.isfinite().all()
    torch.testing.assert_close(found.dense, wanted.dense)
    assert "were computed in float32" in caplog.text


def test_a_text_that_is_too_long_is_named(tiny_bert):
    model = in_flight(loaded(tiny_bert))
    with pytest.raises(InputError, match="text 1 "):
        model.encode(["short", "long " * 99], on_truncate="error")


# float64 is torch's alone: what kernels of our own read and write is not seen.
def test_nothing_races(tiny_bert):
    lanes = FakeLanes()
    model = in_flight(loaded(tiny_bert, precision="float64"), lanes)
    model._engine._transfers = Pinned(CPU, lanes)  # its own send is on the same device
    with Watch(lanes) as watch:
        for _ in model.stream(TEXTS):
            pass
        watch.check_memory()
    assert watch.used_elsewhere


def test_a_wait_left_out_is_a_race(tiny_bert, monkeypatch):
    lanes = FakeLanes()
    model = in_flight(loaded(tiny_bert, precision="float64"), lanes)
    model._engine._transfers = Pinned(CPU, lanes)
    monkeypatch.setattr(lanes, "wait", lambda lane, until: None)
    with Watch(lanes), pytest.raises(Race):
        list(model.stream(TEXTS))
