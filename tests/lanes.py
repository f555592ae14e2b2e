"""A device's streams made up for tests, and a watch for races among what runs on them.

Everything runs at once and in order on the CPU; what is watched is whether it would be right if streams ran
beside each other: whatever is read or written must have been waited for by the stream that does it, and
memory that a second stream uses must be held for it.
"""

from __future__ import annotations

__all__ = ["FakeLanes", "Race", "Watch"]

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOST = "host"


class Race(AssertionError):
    """Something was touched by a stream that had not waited for whoever touched it before."""


class FakeLanes:
    """Streams by name: "caller" and those opened; each knows how far it has waited for each other."""

    def __init__(self):
        self.names = ["caller"]
        self.running = "caller"
        self.time = {"caller": 0, HOST: 0}
        # what each stream (or the host) knows to be done of each other
        self.known = {"caller": {}, HOST: {}}
        self.held = set()
        self.pinned_places = set()

    def current(self):
        return "caller"

    def open(self):
        name = f"lane {len(self.names)}"
        self.names.append(name)
        self.time[name], self.known[name] = 0, {}
        return name

    @contextmanager
    def on(self, lane) -> Iterator[None]:
        before, self.running = self.running, lane
        try:
            yield
        finally:
            self.running = before

    def wait(self, lane, until):
        self._learn(lane, until)

    def mark(self, lane):
        done = {**self.known[lane], lane: self.time[lane]}

        def synchronise():
            for other, time in done.items():
                self.known[HOST][other] = max(time, self.known[HOST].get(other, 0))

        return synchronise

    def hold(self, tensor, lane):
        self.held.add((place(tensor), lane))

    def pinned(self, shape, dtype):
        found = torch.empty(tuple(shape), dtype=dtype)
        self.pinned_places.add(place(found))
        return found

    def _learn(self, who, of):
        for other, time in {**self.known[of], of: self.time[of]}.items():
            self.known[who][other] = max(time, self.known[who].get(other, 0))

    def is_done(self, lane, time, *, for_):
        """Whether `for_` may rely on what `lane` did up to a time; what the host does is done at once."""
        return lane in (for_, HOST) or self.known[for_].get(lane, 0) >= time


class Watch(TorchDispatchMode):
    """Raises Race as soon as an operation on the streams of `lanes` is not behind what it depends on.

    The host sees its own memory: pinned, made by itself, or there before. An operation on that alone, outside
    of any stream's context, is the host's; it is done when it returns, before anything is started after it.
    """

    def __init__(self, lanes):
        super().__init__()
        self.lanes = lanes
        self.read, self.written = {}, {}  # storage -> {who: time of the last such use}
        self.made_by = {}
        self.alive = []  # so that storages keep their addresses while they are watched
        self.used_elsewhere = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        lanes, kwargs = self.lanes, kwargs or {}
        given = {place(tensor) for tensor in tensors_of((args, kwargs))}
        changed = {place(tensor) for tensor in changed_by(func, args, kwargs)}
        out = func(*args, **kwargs)
        self.alive += tensors_of((args, kwargs, out))
        made = {place(tensor) for tensor in tensors_of(out)}
        if made and made <= given and not changed:
            return out  # a view touches no memory
        changed |= made - given
        on_host = all(self.made_by.get(p, HOST) == HOST or p in lanes.pinned_places for p in given)
        who = HOST if on_host and lanes.running == "caller" else lanes.running
        lanes.time[who] += 1
        for where in given | changed:
            self.made_by.setdefault(where, HOST if where in given else who)
            self._check(func, who, where, self.written)
            if where in changed:
                self._check(func, who, where, self.read)
            uses = self.written if where in changed else self.read
            uses.setdefault(where, {})[who] = lanes.time[who]
            if who not in (HOST, self.made_by[where]) and self.made_by[where] != HOST:
                self.used_elsewhere.add((where, who))
        return out

    def _check(self, func, who, where, uses):
        for other, time in uses.get(where, {}).items():
            if not self.lanes.is_done(other, time, for_=who):
                raise Race(f"{func} on {who} touches what {other} may still use")

    def check_memory(self):
        """Memory used on another stream than it was made on is held for that."""
        missing = self.used_elsewhere - self.lanes.held
        if missing:
            raise Race(f"{len(missing)} blocks of memory are used by a stream that they are not held for")


def place(tensor):
    return tensor.untyped_storage().data_ptr()


def tensors_of(tree):
    """All that have memory one can see: weights in a layout of oneDNN's own have not, and never change."""
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
    return [tensor for tensor in tensors if tensor.layout is torch.strided and tensor.numel()]


def changed_by(func, args, kwargs):
    """The tensors among the arguments that an operation writes to."""
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from tensors_of(args[index] if index < len(args) else kwargs.get(argument.name))
