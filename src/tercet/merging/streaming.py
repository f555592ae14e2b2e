"""A method driven over the chunks of a tensor: pass after pass, then its arithmetic."""

from __future__ import annotations

__all__ = ["Chunks", "check_inputs", "chunk_bounds", "merge_chunks", "merge_tensors", "working_bytes"]

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from tercet.errors import InputError, nearest
from tercet.merging.method import REQUIRED, Chunk, Method, OnThreshold, Statistics, Task
from tercet.merging.methods import METHODS

# Makes the chunks of a tensor; called once a pass, and gives the same ones each time.
Chunks = Callable[[], Iterable[Chunk]]

# Of all inputs of a chunk together: 4 MiB in float64, and some ten times that in the middle of a method.
_CHUNK_NUMBERS = 1 << 19
# Threads, tables of digits, candidates of selections, holes that the allocator keeps; and chunks of
# float64 in the middle of a method.
_FIXED_BYTES, _CHUNKS_HELD = 128 << 20, 16


def chunk_bounds(method: Method, task: Task, inputs: int, numbers: int = _CHUNK_NUMBERS) -> Iterator[slice]:
    """Where the flattened tensor is cut: all inputs of a chunk have about `numbers`, whole rows each."""
    width = max(1, method.width(task))
    step = max(1, numbers // (max(1, inputs) * width)) * width
    for start in range(0, task.numbers, step):
        yield slice(start, min(start + step, task.numbers))


def working_bytes(method: Method, task: Task, inputs: int) -> int:
    """Most bytes that merging a tensor takes beside its files, as measured of every method and rounded up."""
    if method.held is not None and task.statistics:
        return _FIXED_BYTES + method.held(task, inputs)
    width = max(1, method.width(task))
    chunk = min(task.numbers * inputs, max(_CHUNK_NUMBERS, inputs * width))
    return _FIXED_BYTES + _CHUNKS_HELD * chunk * 8


def merge_chunks(
    method: Method, task: Task, chunks: Chunks, on_threshold: Callable[[int], None] = lambda count: None
) -> Iterator[tuple[Chunk, Tensor]]:
    """Each chunk with its result, in the order of `chunks`; `on_threshold` is told what was counted."""
    steps = method.steps(task)
    found: Any = None
    while True:
        try:
            asked = steps.send(found)
        except StopIteration as finished:
            apply = finished.value
            break
        if isinstance(asked, OnThreshold):
            on_threshold(asked.count)
            found = None
            continue
        found = reduce(asked.merge_statistics, map(asked.statistics, chunks()))
    for chunk in chunks():
        yield chunk, apply(chunk)


def merge_tensors(
    tensors: Sequence[Tensor],
    method: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    base: int | None = None,
    name: str = "tensor",
    seed: int = 0,
    statistics: Sequence[Tensor] = (),
    chunk_numbers: int = _CHUNK_NUMBERS,
) -> Tensor:
    """Tensors of one shape merged in memory, in float64 if one of them is, else in float32.

    Args:
        tensors: the inputs, in order.
        method: its name.
        parameters: each a value, or for parameters of inputs a list of one for each (the base left out, where
            the method treats it apart).
        base: which of the tensors is the base.
        name: what the tensor is called: with `seed` it fixes what the random methods choose.
        statistics: of each input, for regmean (in, in) Gram matrices, for fisher the information of each
            number; none for a mean.
        chunk_numbers: how much is worked on at a time.

    Raises:
        InputError: a parameter is not known, is missing, or the inputs do not suit the method.
    """
    found = METHODS[method]
    wide = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    flat = [tensor.to(wide).reshape(-1) for tensor in tensors]
    apart = None if base is None or found.base == "input" else flat[base]
    others = [one for place, one in enumerate(flat) if apart is None or place != base]
    check_inputs(found, len(others), has_base=apart is not None)
    task = _task(found, parameters or {}, len(others), tuple(tensors[0].shape), name, seed)
    if statistics and (found.statistics is None or len(statistics) != len(others)):
        raise InputError(
            f"{method} takes no statistics."
            if found.statistics is None
            else f"{len(statistics)} statistics were given for {len(others)} inputs."
        )
    task = replace(task, statistics=tuple(map(_held, statistics)))
    width = found.width(task)

    def chunks() -> Iterator[Chunk]:
        for part in chunk_bounds(found, task, len(tensors), chunk_numbers):
            rows = [one[part].reshape((-1, width) if width else (1, -1)) for one in others]
            piece = None if apart is None else apart[part].reshape(rows[0].shape)
            yield Chunk(tuple(rows), piece, part.start)

    if not task.numbers:
        return flat[0].reshape(task.shape)
    made = [result.reshape(-1) for _, result in merge_chunks(found, task, chunks)]
    return torch.cat(made).reshape(task.shape)


def check_inputs(method: Method, others: int, *, has_base: bool, where: str | None = None) -> None:
    """An InputError where a method cannot work on that many inputs beside the base; `where`: the recipe."""
    place = "" if where is None else f"{where}: "
    fewest, most = method.inputs
    if method.base == "required" and not has_base:
        raise InputError(f"{place}{method.name} needs a base model. Name it as base_model.")
    if others < fewest or (most is not None and others > most):
        wanted = f"{fewest}" if most == fewest else f"{fewest} to {most}" if most else f"at least {fewest}"
        beside = " beside the base model" if method.base == "required" else ""
        raise InputError(f"{place}{method.name} takes {wanted} model(s){beside}; {others} were given.")


def _held(tensor: Tensor) -> Statistics:
    """Statistics in memory."""
    flat = tensor.double().reshape(-1)
    return Statistics(lambda start, stop: flat[start:stop], float(flat.mean()) if flat.numel() else 0.0)


def _task(
    method: Method,
    parameters: Mapping[str, Any],
    inputs: int,
    shape: tuple[int, ...],
    name: str,
    seed: int,
) -> Task:
    known = {parameter.name: parameter for parameter in method.parameters}
    for given in parameters:
        if given not in known:
            raise InputError(f"{method.name} has no parameter {given!r}. {nearest(given, known)}")
    shared: dict[str, Any] = {}
    own: list[dict[str, Any]] = [{} for _ in range(inputs)]
    for key, parameter in known.items():
        value = parameters.get(key, parameter.default)
        if value is REQUIRED:
            raise InputError(f"{method.name} needs the parameter {key!r}, which was not given.")
        if not parameter.per_input:
            shared[key] = value
            continue
        values = list(value) if isinstance(value, Sequence) else [value] * inputs
        if len(values) != inputs:
            raise InputError(f"{method.name}: {key!r} has {len(values)} values for {inputs} inputs.")
        for settings, one in zip(own, values, strict=True):
            settings[key] = one
    return Task(name, shape, shared, tuple(own), seed)
