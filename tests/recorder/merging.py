"""Merges of random tensors that mergekit and Tercet are compared on; read by both sides."""

from __future__ import annotations

__all__ = ["CASES", "SHAPES", "Case", "tensors"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SHAPES = {"matrix": (9, 16), "vector": (33,), "cube": (3, 4, 5), "one": (1,)}


@dataclass(frozen=True)
class Case:
    """A method, how many tensors go in, which of them is the base, and its parameters."""

    name: str
    method: str
    inputs: int
    base: int | None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    shapes: tuple[str, ...] = tuple(SHAPES)


_TWO, _THREE = [0.7, 0.4], [0.5, 0.3, 0.9]
_MANY = ("matrix", "vector", "cube")

CASES = (
    Case("linear", "linear", 3, None, {"weight": _THREE}),
    Case("linear, negative", "linear", 3, None, {"weight": [1.0, 0.5, -0.4]}),
    Case("linear, sum", "linear", 3, None, {"weight": _THREE, "normalize": False}),
    Case("slerp", "slerp", 2, 0, {"t": 0.35}),
    Case("slerp, base last", "slerp", 2, 1, {"t": 0.35}),
    Case("nuslerp", "nuslerp", 2, None, {"weight": _TWO}),
    Case("nuslerp, rows", "nuslerp", 2, None, {"weight": _TWO, "nuslerp_flatten": False}, _MANY),
    Case(
        "nuslerp, columns",
        "nuslerp",
        2,
        None,
        {"weight": _TWO, "nuslerp_flatten": False, "nuslerp_row_wise": True},
        ("matrix", "vector"),
    ),
    Case("nuslerp, base", "nuslerp", 3, 1, {"weight": _TWO}),
    Case("nuslerp, base and rows", "nuslerp", 3, 1, {"weight": _TWO, "nuslerp_flatten": False}, _MANY),
    Case("multislerp", "multislerp", 3, None, {"weight": _THREE}),
    Case("multislerp, sum", "multislerp", 3, None, {"weight": _THREE, "normalize_weights": False}),
    Case("multislerp, base", "multislerp", 3, 0, {"weight": _TWO}, _MANY),
    Case("karcher", "karcher", 3, None, {}, _MANY),
    Case("karcher, few steps", "karcher", 3, None, {"max_iter": 2, "tol": 1e-3}, _MANY),
    Case("task_arithmetic", "task_arithmetic", 3, 0, {"weight": _TWO, "lambda": 0.7}),
    Case("task_arithmetic, mean", "task_arithmetic", 3, 0, {"weight": _TWO, "normalize": True}),
    Case("ties", "ties", 4, 0, {"weight": _THREE, "density": [0.5, 0.2, 0.9]}),
    Case("ties, all", "ties", 4, 1, {"weight": _THREE}),
    Case("ties, sum", "ties", 3, 0, {"weight": _TWO, "density": [0.4, 0.0], "normalize": False}),
    Case("ties, rescaled", "ties", 3, 0, {"weight": _TWO, "density": [0.3, 0.6], "rescale": True}),
    Case("breadcrumbs", "breadcrumbs", 3, 0, {"weight": _TWO, "density": 0.6, "gamma": [0.1, 0.2]}),
    Case("breadcrumbs, few", "breadcrumbs", 3, 0, {"weight": _TWO, "density": 0.9, "gamma": 0.3}),
    Case(
        "breadcrumbs_ties",
        "breadcrumbs_ties",
        4,
        0,
        {"weight": _THREE, "density": 0.5, "gamma": 0.05, "rescale": True},
    ),
    Case("model_stock", "model_stock", 4, 0),
    Case("model_stock, rows", "model_stock", 3, 2, {"filter_wise": True}, _MANY),
    Case("sce", "sce", 4, 0),
    Case("sce, most varied", "sce", 4, 0, {"select_topk": 0.3}),
    Case("ram", "ram", 4, 0, {"epsilon": 0.05}),
    Case("ramplus_tl", "ramplus_tl", 4, 0, {"epsilon": 0.3, "r": 0.4, "alpha": 0.6}),
    Case("nearswap", "nearswap", 2, 0, {"t": 0.1}),
    Case("arcee_fusion", "arcee_fusion", 2, 0, {}, _MANY),
    Case("passthrough", "passthrough", 1, None, {"scale": [0.3]}),
    Case("dare_linear, all", "dare_linear", 3, 0, {"weight": _TWO}),
    Case("dare_ties, all", "dare_ties", 3, 0, {"weight": _TWO}),
    Case("della, all", "della", 3, 0, {"weight": _TWO}),
    Case("della_linear, all", "della_linear", 3, 0, {"weight": _TWO}),
)


def tensors(case: Case, shape: str, seed: int) -> list[np.ndarray]:
    """The inputs of a case in float64: a common part, and of each its own."""
    generator = np.random.default_rng([seed, *case.name.encode(), *shape.encode()])
    common = generator.standard_normal(SHAPES[shape])
    return [common + 0.4 * generator.standard_normal(SHAPES[shape]) for _ in range(case.inputs)]
