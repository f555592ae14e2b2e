"""What is asked of torch.cuda, by stand-ins with torch's own signatures: in which order, on which stream."""

from contextlib import nullcontext
from unittest.mock import create_autospec

import pytest
import torch

from tercet.batch import Batch
from tercet.engines.graphs import CudaCapture
from tercet.engines.transfer import CudaLanes, Pinned

DEVICE = torch.device("cuda:1")


@pytest.fixture
def cuda(monkeypatch):
    """torch.cuda with a log in place of a GPU: each entry is what was called, and on which stream."""
    log, current = [], ["the caller's"]

    class Context:
        def __init__(self, name, enter):
            self.name, self.enter = name, enter

        def __enter__(self):
            log.append(self.name)
            current.append(self.enter)

        def __exit__(self, *error):
            current.pop()
            log.append(f"end of {self.name}")

    def graph(*args, **kwargs):
        torch_graph(*args, **kwargs)
        return Context("capture", kwargs["stream"])

    torch_graph = create_autospec(torch.cuda.graph)
    replaced = {
        "graph": graph,
        "CUDAGraph": create_autospec(torch.cuda.CUDAGraph),
        "graph_pool_handle": create_autospec(torch.cuda.graph_pool_handle, return_value=(0, 1)),
        "stream": lambda lane: Context("stream", lane),
        "current_stream": create_autospec(torch.cuda.current_stream),
        "Stream": create_autospec(torch.cuda.Stream),
        "Event": create_autospec(torch.cuda.Event),
    }
    for name, stand_in in replaced.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.cuda, "log", log, raising=False)
    monkeypatch.setattr(torch.cuda, "running", current, raising=False)
    monkeypatch.setattr(torch.cuda, "torch_graph", torch_graph, raising=False)
    return torch.cuda


def test_a_forward_is_warmed_up_and_captured_on_the_same_stream_from_one_pool(cuda):
    capture, output = CudaCapture(), torch.ones(2)

    def forward():
        cuda.log.append(f"forward on {cuda.running[-1]}")
        return output

    first, second = capture(forward, "a lane"), capture(forward, "a lane")
    once = [
        "stream",
        *["forward on a lane"] * 3,
        "capture",
        "forward on a lane",
        "end of capture",
        "end of stream",
    ]
    assert cuda.log == once * 2
    assert first.output is second.output is output
    cuda.graph_pool_handle.assert_called_once()
    for call in cuda.torch_graph.call_args_list:
        assert call.kwargs == {"pool": (0, 1), "stream": "a lane", "capture_error_mode": "thread_local"}
    first.replay()
    first.reset()
    made = cuda.CUDAGraph.return_value
    made.replay.assert_called_once_with()
    made.reset.assert_called_once_with()


def test_after_a_capture_that_failed_the_callers_stream_is_current_and_the_next_may_begin(cuda):
    def forward():
        if "capture" in cuda.log:
            raise RuntimeError("operation not permitted when stream is capturing")

    capture = CudaCapture()
    for _ in range(2):
        cuda.log.clear()
        with pytest.raises(RuntimeError, match="not permitted"):
            capture(forward, "a lane")
        assert cuda.running == ["the caller's"]


def test_streams_and_events_are_those_of_the_device(cuda):
    lanes = CudaLanes(DEVICE)
    assert lanes.current() is cuda.current_stream.return_value
    cuda.current_stream.assert_called_once_with(DEVICE)
    lane = lanes.open()
    cuda.Stream.assert_called_once_with(DEVICE)
    lanes.wait(lane, until="another")
    lane.wait_stream.assert_called_once_with("another")
    synchronise = lanes.mark(lane)
    event = cuda.Event.return_value
    event.record.assert_called_once_with(lane)
    event.synchronize.assert_not_called()
    synchronise()
    event.synchronize.assert_called_once_with()
    tensor = create_autospec(torch.Tensor, instance=True)
    lanes.hold(tensor, lane)
    tensor.record_stream.assert_called_once_with(lane)


def test_pinned_memory_is_asked_of_torchs_allocator(monkeypatch):
    asked = {}

    def empty(size, *, dtype, pin_memory):
        asked.update(size=size, dtype=dtype, pin_memory=pin_memory)

    monkeypatch.setattr(torch, "empty", empty)
    CudaLanes(DEVICE).pinned([3, 4], torch.int32)
    assert asked == {"size": (3, 4), "dtype": torch.int32, "pin_memory": True}


def test_a_batch_that_has_left_the_host_is_not_copied_again():
    class Lanes:
        def open(self):
            return nullcontext()

    batch = Batch.from_ids([[1, 2]]).to(torch.device("meta"))
    assert Pinned(torch.device("meta"), Lanes()).send(batch) is batch
