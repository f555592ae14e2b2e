"""One model as it is."""

from __future__ import annotations

from tercet.merging.geometry import combination
from tercet.merging.method import Parameter, Steps, Task
from tercet.merging.methods import merge_method


@merge_method(
    "passthrough",
    base="input",
    inputs=(1, 1),
    parameters=(Parameter("scale", float, None, per_input=True),),
)
def passthrough(task: Task) -> Steps:
    """The tensor itself, times `scale` where that is given."""
    [scale] = task.values("scale")
    return lambda chunk: chunk.inputs[0] if scale is None else combination([float(scale)], chunk.inputs)
    yield
