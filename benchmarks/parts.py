"""Seconds of an encode by part: what does each part is wrapped, and the forward stays as it is."""

from __future__ import annotations

import inspect
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from time import perf_counter
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tercet.embedder import Embedder
from tercet.encoders.bert import BertLayer
from tercet.heads import Heads
from tercet.kernels import norm as native_norm
from tercet.layers import attention as attention_layer
from tercet.layers.linear import FeedForward, Linear
from tercet.text.tokenizer import Tokenizer

# A word of a linear layer's path in the encoder -> its part.
LINEAR = {
    "qkv": "q, k, v",
    "attention_out": "attention out",
    "up": "feed-forward up, with the activation",
    "down": "feed-forward down, with the residual",
}
IN_ONE = "feed-forward, up and down in one"
END = "attention out, feed-forward and norms in one"
ATTENTION, NORMS, EMBEDDINGS = "attention", "norms", "embeddings"
QUANTISING = "quantisation of activations"
HEADS, TOKENISER = "heads", "tokeniser"
ENGINE, REST = "engine: Python and the rest", "Python, packing, and the rest"
# Parts in the order of the table, each with the arithmetic it does, by the names of limits.Sizes.
ORDER: dict[str, tuple[str, ...]] = {
    "q, k, v": ("qkv",),
    ATTENTION: ("attention",),
    "attention out": ("attention_out",),
    "feed-forward up, with the activation": ("up",),
    "feed-forward down, with the residual": ("down",),
    IN_ONE: ("up", "down"),
    END: ("attention_out", "up", "down"),
    NORMS: (),
    QUANTISING: (),
    EMBEDDINGS: (),
    HEADS: (),
    TOKENISER: (),
    ENGINE: (),
    REST: (),
}
# Functions of engines and kernels that stand between two products, and are called by them.
_QUANTISES = re.compile(r"^quanti[sz]e")
_SEARCHED = ("tercet.engines", "tercet.kernels", "tercet.layers")


class Recorder:
    """Seconds of each part less those of the parts inside it, on whatever threads they run.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._clock, self._lock, self._local = clock, threading.Lock(), threading.local()

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed as a part."""

        def timed(*positional: Any, **named: Any) -> Any:
            inside: list[float] = self._local.__dict__.setdefault("inside", [])
            inside.append(0.0)
            started = self._clock()
            try:
                return function(*positional, **named)
            finally:
                elapsed = self._clock() - started
                own = elapsed - inside.pop()
                if inside:
                    inside[-1] += elapsed
                with self._lock:
                    self.seconds[part] += own
                    self.calls[part] += 1

        return timed


@contextmanager
def recorded(model: Embedder, recorder: Recorder) -> Iterator[None]:
    """While it lasts, everything that the model does is recorded; afterwards it is as it was."""
    engine, encoder = engine_of(model), encoder_of(engine_of(model))
    with ExitStack() as stack:

        def method(owner: Any, name: str, part: str) -> None:
            stack.enter_context(_replaced(owner, name, recorder.around(part, getattr(owner, name))))

        method(model, "encode", REST)
        method(_only(model, Tokenizer), "encode", TOKENISER)
        method(_only(model, Heads), "forward", HEADS)
        method(engine, "forward", ENGINE)
        method(encoder, "embed", EMBEDDINGS)
        # An engine may have looked up its modules' methods once and for all; what they call it has not.
        method(torch, "layer_norm", NORMS)
        method(native_norm, "layer_norm", NORMS)
        for path, module in encoder.named_modules():
            if isinstance(module, Linear):
                method(module, "product", _part_of(path))
            elif isinstance(module, FeedForward) and module.product is not None:
                method(module, "product", IN_ONE)
            elif isinstance(module, BertLayer) and module.end is not None:
                method(module, "end", END)
        for function in _quantising():
            _everywhere(stack, function, recorder.around(QUANTISING, function))
        attention = attention_layer.attention
        _everywhere(stack, attention, recorder.around(ATTENTION, attention))
        for name, value in list(vars(engine).items()):
            if getattr(value, "__qualname__", "").startswith(f"{type(encoder).__name__}.bound."):
                stack.enter_context(_replaced(engine, name, encoder.bound()))
        yield


def _part_of(path: str) -> str:
    """The part that a linear layer is: of "layers.0.qkv.fused", "q, k, v"."""
    [part] = [LINEAR[word] for word in path.split(".") if word in LINEAR]
    return part


def engine_of(model: Embedder) -> Any:
    """What runs the body of a loaded model."""
    found = [
        value
        for value in vars(model).values()
        if hasattr(value, "forward") and hasattr(value, "device") and not isinstance(value, nn.Module)
    ]
    if len(found) != 1:
        sys.exit(f"{model!r} has {len(found)} engines where one was expected; parts.py knows it no longer.")
    return found[0]


def encoder_of(engine: Any) -> Any:
    """The module that an engine runs."""
    found = [
        value for value in vars(engine).values() if isinstance(value, nn.Module) and hasattr(value, "embed")
    ]
    if not found:
        sys.exit(
            f"the engine {type(engine).__name__} keeps no encoder in parts; there is nothing to tell apart."
        )
    return found[0]


def _only(model: Embedder, kind: type) -> Any:
    """The one attribute of a type."""
    [found] = [value for value in vars(model).values() if isinstance(value, kind)]
    return found


def _quantising() -> list[Callable[..., Any]]:
    """Functions of engines and kernels that quantise; those that only loading needs are never called."""
    found = {}
    for module in _modules():
        for name, value in vars(module).items():
            if (
                inspect.isfunction(value)
                and _QUANTISES.match(name)
                and value.__module__.startswith(_SEARCHED)
            ):
                found[value] = None
    return list(found)


def _modules() -> list[ModuleType]:
    """Every module of the library that is loaded."""
    return [
        module
        for name, module in list(sys.modules.items())
        if name.split(".")[0] == "tercet" and isinstance(module, ModuleType)
    ]


def _everywhere(stack: ExitStack, function: Callable[..., Any], instead: Callable[..., Any]) -> None:
    """Wherever a module of the library calls a function by its name, have it call another."""
    for module in _modules():
        for name, value in list(vars(module).items()):
            if value is function:
                stack.enter_context(_replaced(module, name, instead))


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute set for a while, of the object alone and never of its class."""
    own = name in vars(owner)
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


def shares(seconds: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """(part, seconds, share of all) of the parts that took any time, in the table's order."""
    total = sum(seconds.values())
    return [(part, seconds[part], seconds[part] / total) for part in ORDER if seconds.get(part, 0.0) > 0.0]
