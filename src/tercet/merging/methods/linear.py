"""The weighted mean of the models."""

from __future__ import annotations

from tercet.errors import InputError
from tercet.merging.geometry import combination
from tercet.merging.method import Parameter, Steps, Task
from tercet.merging.methods import merge_method


@merge_method(
    "linear",
    base="input",
    parameters=(Parameter("weight", float, per_input=True), Parameter("normalize", bool, True)),
)
def linear(task: Task) -> Steps:
    """The weighted mean (model soups: Wortsman et al. 2022), or the weighted sum with normalize: false."""
    weights = [float(weight) for weight in task.values("weight")]
    if task.settings["normalize"]:
        total = sum(weights)
        if abs(total) < 1e-12 * max(abs(weight) for weight in weights) or total == 0:
            raise InputError(
                f"{task.name}: the weights {weights} add up to zero, and cannot be normalised. Change them, "
                "or set normalize: false."
            )
        weights = [weight / total for weight in weights]
    return lambda chunk: combination(weights, chunk.inputs)
    yield
