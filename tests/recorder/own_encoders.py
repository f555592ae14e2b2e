"""Routers whose routes have encoders of their own, and SparseStaticEmbedding: what is asked of them."""

from __future__ import annotations

__all__ = ["CASES", "TEXTS", "OwnEncoders", "tasks", "write"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import static_models
import tiny
import tiny_routes
import tiny_sparse
from tiny_modules import dense, normalize, pooling, write_stack

TEXTS = (*tiny.TEXTS[:5], "", "The river [SEP] the river and the Bridge!", "of the city " * 12)


@dataclass(frozen=True)
class OwnEncoders:
    """A folder, whether its vectors are sparse, whether it has routes, and the options of `encode`."""

    make: Callable[[Path], Path]
    sparse: bool = True
    routes: bool = True
    encode: Mapping[str, Any] = field(default_factory=dict)


def _alone(encode: Mapping[str, Any] | None = None, **settings: Any) -> OwnEncoders:
    return OwnEncoders(
        partial(tiny_routes.write_token_weights, **settings), routes=False, encode=encode or {}
    )


def _bert(**settings: Any) -> Callable[[Path], Path]:
    return partial(write_stack, parts=(pooling(), dense("own", 24)), **settings)


_WEIGHTS, _LISTED = (partial(tiny_routes.write_token_weights, listed=listed) for listed in (False, True))
_SPLADE = partial(tiny_sparse.write_splade, activation="log1p_relu")
_DISTIL = partial(tiny_sparse.write_splade, architecture="distilbert", seed=3)
_STATIC = partial(static_models.write_static, modules=())
_ROBERTA = partial(
    write_stack, parts=(pooling("cls"), dense("theirs", 24), normalize()), architecture="roberta"
)
_PROMPTS = {"prompts": {"query": "the query: ", "document": "text: "}}


def _joined(models: Mapping[str, Callable[[Path], Path]], **options: Any) -> Callable[[Path], Path]:
    return partial(tiny_routes.join, models=models, **options)


# name -> folder and options
CASES: Mapping[str, OwnEncoders] = {
    "token weights": _alone(),
    "token weights in a folder, stored in bfloat16": _alone(path="0_SparseStaticEmbedding", dtype="bfloat16"),
    "token weights by token": _alone(listed=True),
    "token weights, cut": _alone(max_tokens=5),
    "token weights, the farthest three from zero": _alone({"max_active_dims": 3}),
    "token weights behind a prompt": _alone({"prompt": "the city: "}),
    "inference-free": OwnEncoders(
        _joined({"query": _WEIGHTS, "document": _SPLADE}, default_route="document")
    ),
    "inference-free, at the root and by token": OwnEncoders(
        _joined({"query": _LISTED, "document": _DISTIL}, at_root="document", default_route="document")
    ),
    "inference-free, prompts": OwnEncoders(
        _joined({"query": _WEIGHTS, "document": _SPLADE}, default_route="document", top=_PROMPTS)
    ),
    "splade and splade": OwnEncoders(_joined({"query": _DISTIL, "document": _SPLADE})),
    "csr and csr": OwnEncoders(
        _joined(
            {
                "query": partial(tiny_sparse.write_csr, k=5),
                "document": partial(tiny_sparse.write_csr, seed=1, normalize=True),
            }
        ),
    ),
    "csr and csr of one encoder": OwnEncoders(
        _joined(
            {
                "query": partial(tiny_sparse.write_csr, k=5),
                "document": partial(tiny_sparse.write_csr, seed=1, normalize=True),
            },
            shared=2,
        )
    ),
    "two encoders": OwnEncoders(
        _joined({"query": _bert(model_max_length=24), "document": _ROBERTA}, default_route="document"),
        sparse=False,
    ),
    "two encoders, prompts": OwnEncoders(
        _joined({"query": _bert(seed=2), "document": _ROBERTA}, top=_PROMPTS), sparse=False
    ),
    "static embeddings and an encoder": OwnEncoders(
        _joined({"query": _STATIC, "document": _bert()}, default_route="document"), sparse=False
    ),
    "two encoders by mappings": OwnEncoders(
        _joined(
            {"short": _bert(), "long": _ROBERTA},
            default_route="long",
            route_mappings={"('query', 'text')": "short", "('document', None)": "long"},
        ),
        sparse=False,
    ),
}


def tasks(name: str) -> tuple[str | None, ...]:
    """What the texts of a case are embedded for: None for whatever is the default."""
    return (None, "query", "document") if CASES[name].routes else (None,)


def write(folder: Path, name: str) -> Path:
    """The tiny checkpoint of a case, by its name."""
    return CASES[name].make(folder)
