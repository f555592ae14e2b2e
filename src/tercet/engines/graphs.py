"""CUDA graphs for single queries and small batches, whose time on a GPU goes into starting many kernels.

A captured forward is replayed in one call, on the addresses and sizes it was captured with. So it is captured
for a size a little larger than the batch (a `Layout` of round numbers), on input buffers that stay, and every
batch that fits is laid into them: rows behind its last text belong to none, texts that are not there have no
tokens, and where texts begin and end is read on the device. Few graphs are kept: those used last.
"""

from __future__ import annotations

__all__ = ["Capture", "Captured", "CudaCapture", "Graphs", "layout_for"]

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tercet.batch import Batch
from tercet.engines.transfer import CudaLanes, Lanes, Layout

logger = logging.getLogger(__name__)

# At most half as many rows again as the batch has, and beyond these the kernels outweigh their starts.
_TOKENS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_TEXTS = (1, 2, 4, 8)
_MOST_GRAPHS = 16
# A capture costs as much as some forwards: a size that comes once, as the last batch of a corpus, has none.
_USES_BEFORE_CAPTURE = 2
_WARM_UPS = 3  # as torch has it: libraries choose and load their kernels meanwhile
# A graph that answers further from the eager forward than rounding explains has something baked in that it
# should read: lengths baked in give about 0.5. float8 is 0.06 away from itself with another order of sums.
_MOST_ERROR = {torch.float64: 1e-6, torch.float32: 1e-3}
_MOST_ERROR_IN_HALF = 0.2
# torch allows one capture at a time in a process.
_capturing = threading.Lock()


def layout_for(batch: Batch) -> Layout | None:
    """The size to capture for a batch; None if it is large, empty, not on the host, or has `attended`."""
    tokens = next((size for size in _TOKENS if size >= batch.num_tokens), None)
    texts = next((size for size in _TEXTS if size >= len(batch)), None)
    if tokens is None or texts is None or not batch.num_tokens or not batch.token_ids.is_cpu:
        return None
    if batch.attended is not None:
        return None
    return Layout(tokens, texts, batch.token_type_ids is not None)


@dataclass(frozen=True, slots=True)
class Captured:
    """A forward on fixed addresses: `replay` computes `output` anew, `reset` gives everything back."""

    replay: Callable[[], None]
    output: Tensor
    reset: Callable[[], None]


class Capture(Protocol):
    """Captures a forward on a stream."""

    def __call__(self, forward: Callable[[], Tensor], lane: torch.cuda.Stream) -> Captured:
        """The captured forward, not yet replayed.

        Raises:
            RuntimeError: something in it cannot be captured.
        """
        ...


class CudaCapture:
    """Capture by torch.cuda.graph; the graphs of one instance share the memory for what is in between."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, forward: Callable[[], Tensor], lane: torch.cuda.Stream) -> Captured:
        """Warmed up on `lane` and captured there.

        Takes some forwards' time, once a size. CUDA forbids any thread to wait for the whole device
        meanwhile: `torch.cuda.synchronize` in that moment is an error; waiting for a stream is allowed.
        """
        # Where ending a failed capture raises, torch leaves its stream in place; this context puts ours back.
        with _capturing, torch.cuda.stream(lane):
            for _ in range(_WARM_UPS):
                forward()
            graph = torch.cuda.CUDAGraph()
            # thread_local: other threads go on to allocate; their work is neither captured nor refused.
            with torch.cuda.graph(graph, pool=self._pool, stream=lane, capture_error_mode="thread_local"):
                output = forward()
        return Captured(graph.replay, output, graph.reset)


class Graphs:
    """Captured forwards of one encoder by size. Safe to use from several threads.

    Args:
        forward: batch on the device -> (rows, hidden). Of its batch's numbers it may use `max_seqlen` alone,
            as an upper bound; everything else it must read from the tensors.
        device: where the input buffers are.
        capture, lanes: how to capture, and on which streams.
        most: graphs that are kept.
    """

    def __init__(
        self,
        forward: Callable[[Batch], Tensor],
        device: torch.device,
        *,
        capture: Capture | None = None,
        lanes: Lanes | None = None,
        most: int = _MOST_GRAPHS,
    ) -> None:
        self._forward = forward
        self._device = device
        self._capture: Capture = CudaCapture() if capture is None else capture
        self._lanes: Lanes = CudaLanes(device) if lanes is None else lanes
        self._most = most
        self._lane = self._lanes.open()
        self._kept: OrderedDict[Layout, tuple[Captured, Tensor]] = OrderedDict()
        self._uses: Counter[Layout] = Counter()
        self._capturable = True
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def run(self, batch: Batch) -> Tensor | None:
        """(tokens, hidden) of a small batch on the host, for the stream that is current now.

        None where the batch is large, where its size has hardly been seen, or where capturing fails: the
        eager forward is to be taken then.
        """
        layout = layout_for(batch)
        if layout is None:
            return None
        with self._lock:
            kept = self._kept.get(layout)
            if kept is None:
                self._uses[layout] += 1
                if not self._capturable or self._uses[layout] < _USES_BEFORE_CAPTURE:
                    return None
                kept = self._added(layout, batch)
                if kept is None:
                    return None
            self._kept.move_to_end(layout)
            return self._replayed(*kept, layout, batch)

    def _replayed(self, captured: Captured, inputs: Tensor, layout: Layout, batch: Batch) -> Tensor:
        """The batch laid into a graph's buffers, and a copy of what the graph then answers."""
        lanes = self._lanes
        # All of it on our own stream, one behind the other: no batch overwrites the inputs of the one before.
        with lanes.on(self._lane):
            self._fill(inputs, layout, batch)
            captured.replay()
            found = captured.output[: batch.num_tokens].clone()
        current = lanes.current()
        lanes.wait(current, until=self._lane)
        lanes.hold(found, current)
        return found

    def _fill(self, inputs: Tensor, layout: Layout, batch: Batch) -> None:
        staged = self._lanes.pinned(inputs.shape, inputs.dtype)
        layout.write(batch, staged)
        inputs.copy_(staged, non_blocking=True)

    def _added(self, layout: Layout, batch: Batch) -> tuple[Captured, Tensor] | None:
        """A graph of a new size, for which the one used longest ago makes room; None if it cannot be."""
        lanes = self._lanes
        if len(self._kept) >= self._most:
            # Its memory is given to whoever asks next: nothing may still run in it.
            lanes.mark(self._lane)()
            _, (oldest, _) = self._kept.popitem(last=False)
            oldest.reset()
        # What the weights were made by may still run.
        lanes.wait(self._lane, until=lanes.current())
        # Compared with far fewer rows than it is captured for, whatever is baked in shows.
        part = _part(batch, layout.tokens // 2)
        absent = (0,) * (layout.texts - 1)
        try:
            with lanes.on(self._lane):
                inputs = torch.zeros(layout.num_bytes, dtype=torch.uint8, device=self._device)
                self._fill(inputs, layout, part)
                exact = self._forward(layout.read(inputs, part.lengths + absent))[: part.num_tokens]
                if not bool(torch.isfinite(exact).all()):
                    return None  # nothing to compare with
                fixed = layout.read(inputs, (layout.tokens, *absent))
                captured = self._capture(lambda: self._forward(fixed), self._lane)
                captured.replay()
                error = _relative_error(captured.output[: part.num_tokens], exact)
        except RuntimeError as failure:  # whatever torch or CUDA does not capture, or no memory for it
            self._give_up(layout, str(failure).strip().splitlines()[0])
            return None
        if not error <= _MOST_ERROR.get(exact.dtype, _MOST_ERROR_IN_HALF):
            captured.reset()
            self._give_up(layout, f"its result is {error:.1e} of its length away from the eager forward's")
            return None
        logger.debug("captured a CUDA graph for %d tokens of %d texts", layout.tokens, layout.texts)
        self._kept[layout] = captured, inputs
        return captured, inputs

    def _give_up(self, layout: Layout, why: str) -> None:
        """No more captures: what failed once would fail again, each time at the cost of several forwards."""
        self._capturable = False
        logger.warning(
            "no CUDA graph for %d tokens of %d texts: %s. Small batches run without graphs from here on.",
            layout.tokens,
            layout.texts,
            why,
        )


def _part(batch: Batch, most: int) -> Batch:
    """The longest text of a batch alone, at most so many tokens of it."""
    longest = batch.lengths.index(batch.max_seqlen)
    start, length = sum(batch.lengths[:longest]), min(batch.max_seqlen, most)
    here, types = slice(start, start + length), batch.token_type_ids
    return Batch(
        batch.token_ids[here],
        batch.position_ids[here],
        torch.tensor([0, length], dtype=torch.int32),
        (length,),
        None if types is None else types[here],
    )


def _relative_error(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact|, over all rows."""
    found, exact = found.double(), exact.double()
    return float((found - exact).norm() / exact.norm().clamp(min=1e-30))
