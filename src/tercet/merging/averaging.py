"""The weighted mean, of what a method has no statistics of."""

from __future__ import annotations

__all__ = ["checked_weights", "weighted_mean"]

from collections.abc import Sequence

from torch import Tensor

from tercet.errors import InputError
from tercet.merging.geometry import combination
from tercet.merging.method import Task


def checked_weights(task: Task) -> list[float]:
    """The weights of all inputs.

    Raises:
        InputError: one is below 0, or all are 0.
    """
    weights = [float(weight) for weight in task.values("weight")]
    if not all(weight >= 0 for weight in weights) or not sum(weights):
        raise InputError(
            f"{task.name}: the weights are {weights}, expected none below 0 and one above. Change them."
        )
    return weights


def weighted_mean(weights: Sequence[float], vectors: Sequence[Tensor]) -> Tensor:
    """The mean, in float64, then in the dtype of the vectors."""
    total = sum(weights)
    return combination([weight / total for weight in weights], vectors)
