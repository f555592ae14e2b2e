from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tercet
import tiny
from tercet.batch import Batch
from tercet.engines.heap import give_back_free_memory
from tercet.engines.probing import PRODUCTS
from tercet.engines.torch_packed import TorchPacked, rounded
from tercet.errors import PrecisionError
from tercet.precision.dtype import DType
from tercet.precision.scheme import Scheme

IDS = [[2, 8, 9, 3], [2, 3], [2, *([10] * 40), 3], [2, 11, 3]]


def planned(folder, kernel, precision="float32"):
    from tercet.checkpoint.layout import open_checkpoint

    model = tercet.load(folder, precision=precision, device="cpu")
    return open_checkpoint(folder), replace(model.plan, kernel=kernel)


@given(tokens=st.integers(0, 100_000))
def test_rounding_adds_at_most_seven_rows_or_a_sixteenth(tokens):
    assert 0 <= rounded(tokens) - tokens <= max(7, tokens / 16)
    assert rounded(rounded(tokens)) == rounded(tokens)


def test_a_corpus_of_every_length_needs_few_numbers_of_rows():
    assert len({rounded(tokens) for tokens in range(1, 2049)}) <= 100
    assert len({rounded(tokens) for tokens in range(1024, 2049)}) <= 17


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta"])
@pytest.mark.parametrize("kernel", sorted(PRODUCTS))
def test_every_product_gives_the_same_hidden_vectors_as_torchs_own(tmp_path, architecture, kernel):
    folder = tiny.write_checkpoint(tmp_path / "model", architecture)
    batch = Batch.from_ids(IDS)
    wanted = TorchPacked(*planned(folder, "torch")).forward(batch)
    found = TorchPacked(*planned(folder, kernel)).forward(batch)
    assert found.shape == (batch.num_tokens, 32)
    torch.testing.assert_close(found, wanted, rtol=0, atol=5e-6)


def test_rows_behind_the_texts_change_nothing_and_do_not_come_out(tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    engine = TorchPacked(*planned(folder, "onednn"))
    seen = []
    engine._encoder.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    together = engine.forward(Batch.from_ids(IDS))
    alone = torch.cat([engine.forward(Batch.from_ids([ids])) for ids in IDS])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-6)
    assert seen == [rounded(51), *(rounded(len(ids)) for ids in IDS)]


def test_a_plan_with_a_product_that_is_not_there_is_refused_with_the_nearest(tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    with pytest.raises(PrecisionError, match=r"'onedn' is none of torch_packed. Did you mean 'onednn'"):
        TorchPacked(*planned(folder, "onedn"))


def test_free_memory_is_given_back_now_and_then_while_a_corpus_is_embedded(tmp_path, monkeypatch):
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    calls = []
    monkeypatch.setattr("tercet.engines.torch_packed.give_back_free_memory", lambda: calls.append(1))
    made = tercet.plan(folder, precision="float32", device="cpu", token_budget=64)
    torchs = Scheme(DType.FLOAT32, DType.FLOAT32, None, "torch_packed")
    model = tercet.load(folder, plan=replace(made, scheme=torchs, kernel="torch"))
    calls.clear()  # packing the weights gives back what it freed, too
    model.encode(["a"])
    assert calls == []
    found = model.encode(["the cat is on the bridge"] * 1000)
    assert 7 <= len(calls) <= int(found.num_tokens.sum()) // (16 * 64)


def test_giving_back_free_memory_may_be_called_anywhere():
    give_back_free_memory()
    give_back_free_memory()


@pytest.mark.parametrize("stored", ["float32", "float16"])
@pytest.mark.parametrize("most", [0, 1 << 30])
@pytest.mark.parametrize("kernel", sorted(PRODUCTS))
def test_weights_fused_and_packed_give_what_mapped_ones_give(tmp_path, monkeypatch, stored, most, kernel):
    folder = tiny.write_checkpoint(tmp_path / "model", "bert", dtype=stored)
    batch = Batch.from_ids(IDS)
    wanted = TorchPacked(*planned(folder, "torch")).forward(batch)
    monkeypatch.setattr("tercet.engines.torch_packed._MOST_MAPPED_BYTES_COPIED", most)
    engine = TorchPacked(*planned(folder, kernel))
    copied = stored == "float16" or most > 0
    weights = dict(engine._encoder.named_parameters())
    assert ("layers.0.qkv.fused.weight" in weights) == copied
    assert weights["layers.0.feed_forward.up.weight"].is_mkldnn == (copied and kernel == "onednn")
    torch.testing.assert_close(engine.forward(batch), wanted, rtol=0, atol=5e-6)
