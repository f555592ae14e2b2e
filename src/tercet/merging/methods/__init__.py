"""One file a merge method: enters a generator that asks for passes over a tensor and gives the arithmetic.

    @merge_method("linear", base="input", parameters=(Parameter("weight", float, per_input=True),))
    def linear(task: Task) -> Steps:
        \"\"\"The weighted mean.\"\"\"
        weights = task.values("weight")
        return lambda chunk: sum(w * x for w, x in zip(weights, chunk.inputs))
        yield  # where there is no pass

Every function is pure: float32 or float64 in, the same out; norms, dot products and choices in float64.
"""

from __future__ import annotations

__all__ = ["METHODS", "merge_method"]

import inspect
from collections.abc import Callable
from typing import Literal

from tercet.merging.method import Method, Parameter, Steps, Task
from tercet.registry import Registry

METHODS: Registry[Method] = Registry("merge method", __name__)


def merge_method(
    name: str,
    *,
    parameters: tuple[Parameter, ...] = (),
    base: Literal["required", "optional", "input"] = "required",
    inputs: tuple[int, int | None] = (1, None),
    width: Callable[[Task], int] = lambda task: 0,
    statistics: Literal["gram", "fisher"] | None = None,
    held: Callable[[Task, int], int] | None = None,
) -> Callable[[Callable[[Task], Steps]], Callable[[Task], Steps]]:
    """A decorator that enters a method under its name; see `Method` for the arguments."""

    def enter(steps: Callable[[Task], Steps]) -> Callable[[Task], Steps]:
        summary = (inspect.getdoc(steps) or "").partition("\n")[0]
        METHODS.register(name)(
            Method(name, steps, parameters, base, inputs, width, summary, statistics, held)
        )
        return steps

    return enter
