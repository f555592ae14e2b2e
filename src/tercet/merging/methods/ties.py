"""Task vectors trimmed to their largest entries, agreed on by sign."""

from __future__ import annotations

from tercet.merging.method import Steps, Task
from tercet.merging.methods import merge_method
from tercet.merging.task_vectors import arithmetic, by_magnitude, parameters


@merge_method("ties", parameters=parameters(normalize=True, rescale=False))
def ties(task: Task) -> Steps:
    """The mean of those largest entries that agree in sign with their weighted sum (Yadav et al. 2023).

    Exactly int(density · n) entries of a task vector are kept, at least one; of equal ones the first.
    """
    masks = yield from by_magnitude(task, [_kept(float(one), task.numbers) for one in task.values("density")])
    return (yield from arithmetic(task, masks, consensus=True))


def _kept(density: float, numbers: int) -> tuple[int, int] | None:
    if density >= 1:
        return None
    return (0, max(1, int(density * numbers)) if density > 0 else 0)
