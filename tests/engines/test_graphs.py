import logging
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from lanes import FakeLanes, Race, Watch
from tercet.batch import Batch
from tercet.checkpoint.layout import open_checkpoint
from tercet.engines.graphs import Captured, Graphs, layout_for
from tercet.engines.transfer import Layout
from tercet.layers.attention import padded
from tercet.model import load_encoder
from tercet.precision.dtype import DType

CPU = torch.device("cpu")


class FakeCapture:
    """A graph as CUDA has it, as far as a CPU can: the same addresses, the forward done anew at replay."""

    def __init__(self, failure=None):
        self.failure = failure
        self.captured, self.replays, self.resets = 0, 0, 0

    def __call__(self, forward, lane):
        if self.failure is not None:
            raise RuntimeError(self.failure)
        self.captured += 1
        output = forward().clone()

        def replay():
            self.replays += 1
            output.copy_(forward())

        def reset():
            self.resets += 1

        return Captured(replay, output, reset)


@pytest.fixture
def encoder(tmp_path, monkeypatch):
    """A tiny encoder whose attention reads the device alone, as on CUDA."""
    monkeypatch.setattr("tercet.encoders.bert.attention", lambda *rows, bfloat16: padded(*rows))
    folder = tiny.write_checkpoint(tmp_path / "model", "bert", max_positions=514)
    return load_encoder(open_checkpoint(folder), DType.FLOAT32)


def made(encoder, capture=None, lanes=None, **options):
    capture = FakeCapture() if capture is None else capture
    return Graphs(encoder, CPU, capture=capture, lanes=FakeLanes() if lanes is None else lanes, **options)


def batch_of(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Batch.from_ids([torch.randint(5, 100, (n,), generator=generator).tolist() for n in lengths])


@given(lengths=st.lists(st.integers(0, 300), min_size=1, max_size=10))
def test_a_size_to_capture_holds_the_batch_and_is_at_most_half_larger(lengths):
    batch = batch_of(*lengths)
    layout = layout_for(batch)
    if layout is None:
        assert not 0 < batch.num_tokens <= 512 or len(batch) > 8
        return
    assert batch.num_tokens <= layout.tokens <= max(16, 1.5 * batch.num_tokens)
    assert len(batch) <= layout.texts < 2 * len(batch)


def test_batches_that_are_empty_or_not_on_the_host_have_no_size():
    batch = batch_of(3)
    assert layout_for(batch) == Layout(16, 1, types=False)
    assert layout_for(batch.to(torch.device("meta"))) is None
    assert layout_for(batch_of(0, 0)) is None


def test_every_batch_of_a_size_comes_out_of_its_graph_as_from_the_eager_forward(encoder):
    graphs = made(encoder)
    with torch.inference_mode():
        assert graphs.run(batch_of(9)) is None  # a size that comes once is not worth a capture
        for seed, lengths in enumerate([(12,), (16,), (1,), (7,), (3,), (16,)]):
            batch = batch_of(*lengths, seed=seed)
            found = graphs.run(batch)
            torch.testing.assert_close(found, encoder(batch), rtol=0, atol=2e-6)
    assert len(graphs) == 1
    assert graphs._capture.captured == 1


def test_a_graph_gives_bit_for_bit_what_the_eager_forward_gives_of_the_same_rows(encoder):
    graphs = made(encoder)
    layout = Layout(48, 4, types=False)
    with torch.inference_mode():
        graphs.run(batch_of(20, 9, 11))
        for lengths in [(20, 9, 11), (1, 2, 40), (30, 3, 1, 12)]:
            batch = batch_of(*lengths, seed=sum(lengths))
            block = torch.empty(layout.num_bytes, dtype=torch.uint8)
            layout.write(batch, block)
            eager = encoder(layout.read(block, (layout.tokens, 0, 0, 0)))[: batch.num_tokens]
            assert torch.equal(graphs.run(batch), eager)


def test_token_types_have_graphs_of_their_own(encoder):
    graphs = made(encoder)
    plain = batch_of(5, 8)
    types = torch.tensor([0] * 5 + [0, 0, 0, 1, 1, 1, 1, 1])
    typed = Batch(plain.token_ids, plain.position_ids, plain.cu_seqlens, plain.lengths, types)
    with torch.inference_mode():
        for batch in (plain, plain, typed, typed):
            found = graphs.run(batch)
        torch.testing.assert_close(found, encoder(typed), rtol=0, atol=2e-6)
        torch.testing.assert_close(graphs.run(plain), encoder(plain), rtol=0, atol=2e-6)
    assert len(graphs) == 2


def test_a_result_stays_as_it_is_when_the_graph_runs_again(encoder):
    graphs = made(encoder)
    with torch.inference_mode():
        graphs.run(batch_of(9))
        first = graphs.run(batch_of(9, seed=1))
        before = first.clone()
        graphs.run(batch_of(9, seed=2))
        assert torch.equal(first, before)


def test_the_graph_used_longest_ago_makes_room(encoder):
    capture = FakeCapture()
    graphs = made(encoder, capture, most=2)
    with torch.inference_mode():
        for length in (10, 10, 20, 20, 10, 30, 30):
            graphs.run(batch_of(length))
        assert [layout.tokens for layout in graphs._kept] == [16, 32]
        assert (capture.captured, capture.resets) == (3, 1)
        found = graphs.run(batch_of(20))  # captured anew at once: its size is known to come back
        torch.testing.assert_close(found, encoder(batch_of(20)), rtol=0, atol=2e-6)
    assert [layout.tokens for layout in graphs._kept] == [32, 24]


def test_where_capture_fails_the_eager_forward_is_taken_and_a_line_logged(encoder, caplog):
    graphs = made(encoder, FakeCapture("operation not permitted when stream is capturing\nmore"))
    with caplog.at_level(logging.WARNING), torch.inference_mode():
        for length in (10, 10, 10, 100, 100):
            assert graphs.run(batch_of(length)) is None
    [record] = caplog.records
    assert record.getMessage() == (
        "no CUDA graph for 16 tokens of 1 texts: operation not permitted when stream is capturing. "
        "Small batches run without graphs from here on."
    )


@pytest.mark.parametrize("lengths", [(9,), (16,), (15,), (4, 4, 3, 5)])
def test_a_graph_into_which_lengths_are_baked_is_not_used(tmp_path, monkeypatch, caplog, lengths):
    """The CPU's attention goes by the lengths on the host: replayed, it would mix in rows of no text."""
    from tercet.layers.attention import grouped

    monkeypatch.setattr("tercet.encoders.bert.attention", lambda *rows, bfloat16: grouped(*rows))
    encoder = load_encoder(open_checkpoint(tiny.write_checkpoint(tmp_path / "m", "bert")), DType.FLOAT32)
    capture = FakeCapture()
    graphs = made(encoder, capture)
    with torch.inference_mode():
        assert graphs.run(batch_of(*lengths)) is None
        assert graphs.run(batch_of(*lengths)) is None
    assert (capture.captured, capture.resets, len(graphs)) == (1, 1, 0)
    assert "away from the eager forward's" in caplog.text


def test_nothing_is_captured_by_a_text_whose_values_are_not_finite(encoder):
    graphs = made(encoder)
    weight = encoder.word.weight[7].clone()
    bad = Batch.from_ids([[6, 7, 8]])
    with torch.inference_mode():
        encoder.word.weight[7] = float("inf")
        assert graphs.run(bad) is None
        assert graphs.run(bad) is None
        encoder.word.weight[7] = weight
        torch.testing.assert_close(graphs.run(bad), encoder(bad), rtol=0, atol=2e-6)


def test_a_graphs_stream_waits_and_is_waited_for(encoder):
    lanes = FakeLanes()
    batch = batch_of(9)
    with torch.inference_mode(), Watch(lanes) as watch:
        graphs = made(encoder, lanes=lanes)
        for _ in range(4):
            found = graphs.run(batch)
        found.sum()  # on the caller's stream
        watch.check_memory()
    assert watch.used_elsewhere


@pytest.mark.parametrize("left_out", ["wait", "hold"])
def test_a_wait_or_a_hold_left_out_is_found(encoder, monkeypatch, left_out):
    lanes = FakeLanes()
    monkeypatch.setattr(lanes, left_out, lambda *args, **kwargs: None)
    batch = batch_of(9)

    def use():
        graphs = made(encoder, lanes=lanes)
        for _ in range(2):
            found = graphs.run(batch)
        found.sum()
        watch.check_memory()

    with torch.inference_mode(), Watch(lanes) as watch, pytest.raises(Race):
        use()


def test_threads_share_graphs_without_mixing_their_texts(encoder):
    graphs = made(encoder)
    batches = [batch_of(3 + i % 12, seed=i) for i in range(24)]
    with torch.inference_mode():
        wanted = [encoder(batch) for batch in batches]
    found = [None] * len(batches)
    begin = threading.Barrier(4)

    def work(first):
        begin.wait()
        with torch.inference_mode():
            for _ in range(3):
                for i in range(first, len(batches), 4):
                    found[i] = graphs.run(batches[i])

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    assert graphs._capture.captured == 1


def test_an_encoder_asks_nothing_of_its_device_while_it_computes(tmp_path):
    """What has no values can be waited for as little as a capture: every shape comes from the host."""
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    encoder = load_encoder(open_checkpoint(folder), DType.BFLOAT16).to("meta")
    found = encoder(batch_of(9, 3).to(torch.device("meta")))
    assert (found.shape, found.dtype) == ((12, 32), torch.bfloat16)
