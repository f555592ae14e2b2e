"""Task vectors without their largest and smallest entries."""

from __future__ import annotations

from tercet.merging.method import Parameter, Steps, Task
from tercet.merging.methods import merge_method
from tercet.merging.task_vectors import arithmetic, by_magnitude, parameters

_PARAMETERS = parameters(
    normalize=False, rescale=False, more=(Parameter("gamma", float, 0.01, per_input=True, least=0),)
)


@merge_method("breadcrumbs", parameters=_PARAMETERS)
def breadcrumbs(task: Task) -> Steps:
    """Task arithmetic on what is neither an outlier nor small (Davari and Belilovsky 2024).

    The int(gamma · n) largest entries go, then as many of the smallest that int(density · n) remain; fewer of
    the largest where there would not be enough.
    """
    return _breadcrumbs(task, consensus=False)


@merge_method("breadcrumbs_ties", parameters=_PARAMETERS)
def breadcrumbs_ties(task: Task) -> Steps:
    """As breadcrumbs, and the entries must agree in sign, as in TIES."""
    return _breadcrumbs(task, consensus=True)


def _breadcrumbs(task: Task, *, consensus: bool) -> Steps:
    kept: list[tuple[int, int] | None] = []
    for density, gamma in zip(task.values("density"), task.values("gamma"), strict=True):
        if density >= 1:
            kept.append(None)
            continue
        taken = int(max(0.0, density) * task.numbers)
        kept.append((min(int(gamma * task.numbers), task.numbers - taken), taken))
    masks = yield from by_magnitude(task, kept)
    return (yield from arithmetic(task, masks, consensus=consensus))
