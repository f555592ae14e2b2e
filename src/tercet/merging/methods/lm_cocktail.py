"""The sum of the models by weights that examples decide."""

from __future__ import annotations

from tercet.merging.geometry import combination
from tercet.merging.method import Parameter, Steps, Task
from tercet.merging.methods import merge_method


@merge_method("lm_cocktail", base="input", parameters=(Parameter("weight", float, per_input=True),))
def lm_cocktail(task: Task) -> Steps:
    """The sum of the models by weights that a few examples decide (LM-Cocktail: Xiao et al. 2023)."""
    weights = [float(weight) for weight in task.values("weight")]
    return lambda chunk: combination(weights, chunk.inputs)
    yield
