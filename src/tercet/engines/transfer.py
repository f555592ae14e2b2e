"""Batches to a device and results back from it, beside what it computes; in the order in which they left.

A GPU copies while it computes only from and to pinned memory, and only on another stream than that of the
computation. Pinned memory is torch's own, kept by its allocator, which hands a block out again only after the
copies from it are done. Everything here is host work in front of streams and events: what they are is the
`Lanes` of a device, so that a test can put others in their place and watch for races.
"""

from __future__ import annotations

__all__ = [
    "CudaLanes",
    "Direct",
    "Lanes",
    "Layout",
    "Pending",
    "Pinned",
    "Transfers",
    "in_order",
    "transfers",
]

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from tercet.batch import Batch

F = TypeVar("F")
R = TypeVar("R")


class Lanes(Protocol):
    """The streams of one device, as far as transfers and graphs need them."""

    def current(self) -> torch.cuda.Stream:
        """The stream on which this thread's operations run."""
        ...

    def open(self) -> torch.cuda.Stream:
        """A stream of our own."""
        ...

    def on(self, lane: torch.cuda.Stream) -> AbstractContextManager[object]:
        """What is done inside runs on `lane`."""
        ...

    def wait(self, lane: torch.cuda.Stream, until: torch.cuda.Stream) -> None:
        """Have `lane` begin nothing more before `until` has done what it was given; the host goes on."""
        ...

    def hold(self, tensor: Tensor, lane: torch.cuda.Stream) -> None:
        """Keep a tensor's memory from being used anew before `lane` has done what it was given so far."""
        ...

    def mark(self, lane: torch.cuda.Stream) -> Callable[[], None]:
        """Has the host wait until `lane` has done what it was given before the mark, when called."""
        ...

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory of the host, uninitialised, that a copy can use beside the host."""
        ...


class CudaLanes:
    """The streams of a CUDA device, by torch."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def current(self) -> torch.cuda.Stream:
        """The stream on which this thread's operations run."""
        return torch.cuda.current_stream(self.device)

    def open(self) -> torch.cuda.Stream:
        """A stream of our own."""
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def on(self, lane: torch.cuda.Stream) -> AbstractContextManager[object]:
        """What is done inside runs on `lane`."""
        return torch.cuda.stream(lane)

    def wait(self, lane: torch.cuda.Stream, until: torch.cuda.Stream) -> None:
        """Have `lane` wait, on the device, for what `until` was given so far."""
        lane.wait_stream(until)

    def hold(self, tensor: Tensor, lane: torch.cuda.Stream) -> None:
        """Tell the allocator that `lane` uses a tensor that was made on another."""
        tensor.record_stream(lane)

    def mark(self, lane: torch.cuda.Stream) -> Callable[[], None]:
        """An event behind what `lane` was given so far."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(lane)
        return event.synchronize

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Page-locked memory from torch's allocator, which keeps it for the next who asks."""
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a batch's fields lie in one block of bytes, so that one copy moves them all.

    Attributes:
        tokens: rows of the token and position ids.
        texts: one less than the entries of cu_seqlens.
        types: whether there are token types.
    """

    tokens: int
    texts: int
    types: bool

    @classmethod
    def of(cls, batch: Batch) -> Layout:
        """The layout that a batch just fits."""
        return cls(len(batch.token_ids), len(batch), batch.token_type_ids is not None)

    @property
    def num_bytes(self) -> int:
        """Bytes of the block."""
        return 8 * self.tokens * (3 if self.types else 2) + 4 * (self.texts + 1)

    def fields(self, block: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Token ids, position ids, cu_seqlens and token types (or None) as views of a block of uint8."""
        wide = 8 * self.tokens
        # int64 first: a view of wider numbers must begin at a multiple of their size
        columns = [block[i * wide : (i + 1) * wide].view(torch.int64) for i in range(3 if self.types else 2)]
        bounds = block[len(columns) * wide : self.num_bytes].view(torch.int32)
        return columns[0], columns[1], bounds, columns[2] if self.types else None

    def write(self, batch: Batch, block: Tensor) -> None:
        """Lay a batch that is no larger into a block; rows behind its last text are zeros, and no text's."""
        token_ids, position_ids, bounds, types = self.fields(block)
        tokens, texts = len(batch.token_ids), len(batch)
        columns = [(token_ids, batch.token_ids), (position_ids, batch.position_ids)]
        if types is not None and batch.token_type_ids is not None:
            columns.append((types, batch.token_type_ids))
        for column, ids in columns:
            column[:tokens] = ids
            column[tokens:] = 0
        bounds[: texts + 1] = batch.cu_seqlens
        # Texts that are not there end where the last one ends.
        bounds[texts + 1 :] = batch.num_tokens

    def read(self, block: Tensor, lengths: tuple[int, ...]) -> Batch:
        """The batch in a block, as views."""
        token_ids, position_ids, bounds, types = self.fields(block)
        return Batch(token_ids, position_ids, bounds, lengths, types)


class Pending:
    """Results on their way to the host."""

    def __init__(self, tensors: Mapping[str, Tensor], arrived: Callable[[], None] | None = None) -> None:
        self._tensors = tensors
        self._arrived = arrived

    def wait(self) -> dict[str, Tensor]:
        """The results in ordinary memory of the host, once they are there."""
        if self._arrived is None:
            return {name: tensor.cpu() for name, tensor in self._tensors.items()}
        self._arrived()
        # Copied again: what a caller keeps for long must not keep memory pinned, of which there is little.
        return {name: tensor.clone() for name, tensor in self._tensors.items()}


class Transfers(Protocol):
    """Batches to a device, results back.

    Attributes:
        ahead: how many batches may be given to the device before the first one's results are asked for.
    """

    ahead: int

    def send(self, batch: Batch) -> Batch:
        """The batch on the device, for the stream that is current now; one that is there is given back."""
        ...

    def fetch(self, tensors: Mapping[str, Tensor]) -> Pending:
        """Have results of the current stream brought to the host."""
        ...


class Direct:
    """Transfers of a device that shares the host's memory, or has no streams."""

    ahead = 0

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def send(self, batch: Batch) -> Batch:
        """The batch on the device."""
        return batch.to(self.device)

    def fetch(self, tensors: Mapping[str, Tensor]) -> Pending:
        """The results, brought over when they are waited for."""
        return Pending(tensors)


class Pinned:
    """Transfers through pinned memory on a stream in each direction. Safe to use from several threads."""

    ahead = 1

    def __init__(self, device: torch.device, lanes: Lanes | None = None) -> None:
        self.device = device
        self._lanes: Lanes = CudaLanes(device) if lanes is None else lanes
        self._inward, self._outward = self._lanes.open(), self._lanes.open()

    def send(self, batch: Batch) -> Batch:
        """The batch on the device: one copy, beside what the device computes of batches before."""
        if not batch.token_ids.is_cpu or batch.attended is not None:
            return batch.to(self.device)
        lanes, layout = self._lanes, Layout.of(batch)
        block = lanes.pinned((layout.num_bytes,), torch.uint8)
        layout.write(batch, block)
        current = lanes.current()
        with lanes.on(self._inward):
            there = block.to(self.device, non_blocking=True, copy=True)
        # Made on one stream, used on another: this one must wait for it, and its memory for this one.
        lanes.wait(current, until=self._inward)
        lanes.hold(there, current)
        return layout.read(there, batch.lengths)

    def fetch(self, tensors: Mapping[str, Tensor]) -> Pending:
        """Copies into pinned memory behind what computes the results, before whatever is computed next."""
        lanes = self._lanes
        lanes.wait(self._outward, until=lanes.current())
        found = {}
        with lanes.on(self._outward):
            for name, tensor in tensors.items():
                found[name] = lanes.pinned(tensor.shape, tensor.dtype).copy_(tensor, non_blocking=True)
                lanes.hold(tensor, self._outward)
        return Pending(found, lanes.mark(self._outward))


def transfers(device: torch.device) -> Transfers:
    """What brings batches to a device and results back."""
    return Pinned(device) if device.type == "cuda" else Direct(device)


def in_order(flights: Iterable[F], land: Callable[[F], R], *, ahead: int) -> Iterator[R]:
    """What `land` makes of each flight, in their order; `ahead` more are begun before one is landed."""
    waiting: deque[F] = deque()
    for flight in flights:
        waiting.append(flight)
        if len(waiting) > ahead:
            yield land(waiting.popleft())
    while waiting:
        yield land(waiting.popleft())
