"""Stacks with modules over token vectors, and what is asked of them: for the recorder and the tests."""

from __future__ import annotations

__all__ = ["ROUTED", "STACKS", "TASKS", "TEXTS", "ModuleStack", "write"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny
import tiny_modules
from tiny_modules import (
    Part,
    cnn,
    dense,
    dropout,
    layer_pooling,
    lstm,
    normalize,
    pooling,
    router,
    word_weights,
)

TEXTS = (*tiny.TEXTS, "Two cats, three dogs: which of them is in the river?")
_STATES = {"config": {"output_hidden_states": True}, "layers": 3}
_PROMPT = {"prompt": "search query: "}


@dataclass(frozen=True)
class ModuleStack:
    """Modules behind a tiny BERT, how they are written, and the options of `encode`."""

    name: str
    parts: tuple[Part, ...]
    write: Mapping[str, Any] = field(default_factory=dict)
    encode: Mapping[str, Any] = field(default_factory=dict)


STACKS = (
    ModuleStack("dropout", (pooling(), dropout())),
    ModuleStack("layer pooling", (layer_pooling(3, 1), pooling()), _STATES),
    ModuleStack("layer pooling from the embeddings on", (layer_pooling(3, 0), pooling("cls")), _STATES),
    ModuleStack("layer pooling of the last layer", (layer_pooling(3, 3, [2.0]), pooling()), _STATES),
    ModuleStack(
        "layer pooling, old keys",
        (layer_pooling(3, 2), pooling("max")),
        {
            "layers": 3,
            "old_keys": True,
            "config": {"output_hidden_states": True},
        },
    ),
    ModuleStack("layer pooling of one layer's states", (layer_pooling(3, 1), pooling()), {"layers": 3}),
    ModuleStack("lstm", (lstm(12), pooling())),
    ModuleStack("lstm, one way", (lstm(12, both=False), pooling("lasttoken"))),
    ModuleStack("lstm of two layers, old keys", (lstm(8, 2), pooling("max", "mean")), {"old_keys": True}),
    ModuleStack("lstm, prompt not pooled", (lstm(12), pooling(include_prompt=False)), encode=_PROMPT),
    ModuleStack("cnn", (cnn(6), pooling())),
    ModuleStack("cnn, old keys", (cnn(5, (3, 7)), pooling("max")), {"old_keys": True}),
    ModuleStack("cnn with a stride", (cnn(6, (1, 3, 5), (2, 2, 2)), pooling("mean", "lasttoken"))),
    ModuleStack("cnn of even kernels", (cnn(6, (2, 4)), pooling("mean", "cls"))),
    ModuleStack("cnn, prompt not pooled", (cnn(6), pooling(include_prompt=False)), encode=_PROMPT),
    ModuleStack("cnn, then lstm", (cnn(6, (1, 3)), lstm(8), pooling())),
    ModuleStack(
        "layer pooling, cnn, then lstm", (layer_pooling(3, 2), cnn(6, (3,)), lstm(4), pooling()), _STATES
    ),
    ModuleStack(
        "word weights", (word_weights(), pooling("mean", "mean_sqrt_len_tokens", "weightedmean", "max"))
    ),
    ModuleStack(
        "word weights, prompt not pooled",
        (word_weights(), pooling("mean", "weightedmean", include_prompt=False)),
        encode=_PROMPT,
    ),
)


_QUERY, _DOCUMENT, _SHARED = dense("query", 16), dense("document", 16), dense("shared", 16)
_ROUTES = {"query": (_QUERY,), "document": (_DOCUMENT,)}
# What is recorded of a stack with routes: those tasks for which it has one; None takes the default route.
TASKS = (None, "query", "document")
ROUTED = (
    ModuleStack("router", (pooling(), router(_ROUTES, default_route="document"), normalize())),
    ModuleStack("router, first route by default", (pooling(), router(_ROUTES))),
    ModuleStack("asym, old file", (pooling(), router(_ROUTES, allow_empty_key=True)), {"old_keys": True}),
    ModuleStack(
        "router, a shared module and dropout",
        (
            pooling(),
            router(
                {"query": (_SHARED, dense("behind", 16), dropout()), "document": (_SHARED,)},
                default_route="query",
            ),
        ),
    ),
    ModuleStack(
        "router of poolings",
        (lstm(8), router({"query": (pooling("cls"), _QUERY), "document": (pooling("max"), _DOCUMENT)})),
    ),
    ModuleStack(
        "router by mappings",
        (
            pooling(),
            router(
                {"short": (_QUERY,), "long": (_DOCUMENT,)},
                route_mappings={
                    "('query', 'text')": "short",
                    "('document', None)": "long",
                    "(None, ('image', 'text'))": "short",
                },
                default_route="long",
            ),
        ),
    ),
    ModuleStack("router first, one encoder", (pooling(), router(_ROUTES, default_route="document"))),
)


def write(folder: Path, name: str, **settings: Any) -> Path:
    """The folder of a stack, by its name; `settings` change how it is written."""
    stack = next(case for case in (*STACKS, *ROUTED) if case.name == name)
    tiny_modules.write_stack(folder, stack.parts, **{**stack.write, **settings})
    return tiny_modules.put_routes_first(folder) if name.startswith("router first") else folder
