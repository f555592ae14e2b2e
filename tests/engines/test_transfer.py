import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lanes import FakeLanes, Race, Watch
from tercet.batch import Batch
from tercet.engines.transfer import Direct, Layout, Pinned, in_order, transfers

CPU = torch.device("cpu")
TEXTS = st.lists(st.lists(st.integers(0, 2**40), min_size=0, max_size=9), min_size=1, max_size=5)


def with_types(batch):
    types = torch.arange(len(batch.token_ids)) % 2
    return Batch(batch.token_ids, batch.position_ids, batch.cu_seqlens, batch.lengths, types)


def fields(batch):
    return [batch.token_ids, batch.position_ids, batch.cu_seqlens, batch.token_type_ids]


def assert_same(found, wanted):
    assert found.lengths == wanted.lengths
    for ours, theirs in zip(fields(found), fields(wanted), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)


@given(ids=TEXTS, types=st.booleans())
def test_a_batch_comes_out_of_one_block_as_it_went_in(ids, types):
    batch = with_types(Batch.from_ids(ids)) if types else Batch.from_ids(ids)
    layout = Layout.of(batch)
    block = torch.full((layout.num_bytes,), 0xA5, dtype=torch.uint8)
    layout.write(batch, block)
    assert_same(layout.read(block, batch.lengths), batch)


@given(ids=TEXTS, rows=st.integers(0, 7), more=st.integers(0, 3), types=st.booleans())
def test_a_larger_block_has_rows_of_no_text_and_texts_without_rows(ids, rows, more, types):
    batch = with_types(Batch.from_ids(ids)) if types else Batch.from_ids(ids)
    layout = Layout(batch.num_tokens + rows, len(batch) + more, types)
    block = torch.full((layout.num_bytes,), 0xA5, dtype=torch.uint8)
    layout.write(batch, block)
    found = layout.read(block, batch.lengths)
    for ours, theirs in zip(fields(found)[:2], fields(batch)[:2], strict=True):
        assert torch.equal(ours[: batch.num_tokens], theirs)
        assert not ours[batch.num_tokens :].any()
    assert found.cu_seqlens.tolist() == [*batch.cu_seqlens.tolist(), *[batch.num_tokens] * more]
    if types:
        assert torch.equal(found.token_type_ids[: batch.num_tokens], batch.token_type_ids)
        assert not found.token_type_ids[batch.num_tokens :].any()


def run_through(pinned, batches, compute):
    """What a pipeline does: the next batch is sent and computed before results are asked for."""
    started = (pinned.fetch({"sum": compute(pinned.send(batch))}) for batch in batches)
    return [found["sum"] for found in in_order(started, lambda pending: pending.wait(), ahead=pinned.ahead)]


BATCHES = [Batch.from_ids([[i, 2 * i, 7], [5]]) for i in range(1, 6)]


def compute(batch):
    return (batch.token_ids * 3 + batch.position_ids).double()


def test_transfers_wait_for_what_they_need_and_hold_the_memory_that_others_use():
    lanes = FakeLanes()
    with Watch(lanes) as watch:
        found = run_through(Pinned(CPU, lanes), BATCHES, compute)
        watch.check_memory()
    assert len(watch.used_elsewhere) == 2 * len(BATCHES)  # a batch inward, its result outward
    for ours, batch in zip(found, BATCHES, strict=True):
        assert torch.equal(ours, compute(batch))


@pytest.mark.parametrize("call", [1, 2])
def test_a_wait_left_out_is_a_race(monkeypatch, call):
    lanes, calls = FakeLanes(), []

    def all_but_one(lane, until):
        calls.append(lane)
        if len(calls) != call:
            lanes._learn(lane, until)

    monkeypatch.setattr(lanes, "wait", all_but_one)
    with Watch(lanes), pytest.raises(Race):
        run_through(Pinned(CPU, lanes), BATCHES[:1], compute)


def test_results_read_before_they_came_are_a_race(monkeypatch):
    lanes = FakeLanes()
    monkeypatch.setattr(lanes, "mark", lambda lane: lambda: None)
    with Watch(lanes), pytest.raises(Race):
        run_through(Pinned(CPU, lanes), BATCHES[:1], compute)


def test_memory_that_is_not_held_is_found(monkeypatch):
    lanes = FakeLanes()
    monkeypatch.setattr(lanes, "hold", lambda tensor, lane: None)
    with Watch(lanes) as watch:
        run_through(Pinned(CPU, lanes), BATCHES, compute)
        with pytest.raises(Race, match="not held"):
            watch.check_memory()


def test_results_leave_pinned_memory():
    lanes = FakeLanes()
    found = Pinned(CPU, lanes).fetch({"x": torch.arange(5)}).wait()["x"]
    assert found.tolist() == [0, 1, 2, 3, 4]
    assert found.untyped_storage().data_ptr() not in lanes.pinned_places


def test_without_streams_nothing_is_copied_that_is_there():
    direct = transfers(CPU)
    assert isinstance(direct, Direct)
    batch = Batch.from_ids([[1, 2]])
    assert direct.send(batch) is batch
    values = torch.ones(3)
    assert direct.fetch({"values": values}).wait()["values"] is values


@given(number=st.integers(0, 6), ahead=st.integers(0, 3))
def test_results_come_in_the_order_of_their_batches_some_begun_ahead(number, ahead):
    begun = []

    def flights():
        for i in range(number):
            begun.append(i)
            yield i

    seen = []
    for landed in in_order(flights(), lambda flight: flight * 10, ahead=ahead):
        seen.append(landed)
        assert len(begun) == min(number, len(seen) + ahead)
    assert seen == [10 * i for i in range(number)]
