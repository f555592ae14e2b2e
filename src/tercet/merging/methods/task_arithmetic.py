"""Task vectors added to the base."""

from __future__ import annotations

from tercet.merging.method import Steps, Task
from tercet.merging.methods import merge_method
from tercet.merging.task_vectors import arithmetic, parameters


@merge_method("task_arithmetic", parameters=parameters(normalize=False, rescale=False))
def task_arithmetic(task: Task) -> Steps:
    """The base and the weighted sum of what each model adds to it (Ilharco et al. 2023)."""
    return arithmetic(task, None, consensus=False)
