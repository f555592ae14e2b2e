"""Linear layers that give, on the inputs of all models, what each model's own layer gives."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tercet.errors import InputError
from tercet.merging.averaging import checked_weights, weighted_mean
from tercet.merging.method import Apply, Chunk, Parameter, Statistics, Steps, Task
from tercet.merging.methods import merge_method

# Numbers of a weight that are worked on at a time, as far as its rows allow; and of a Gram matrix.
_BLOCK = 1 << 19
# Such blocks in float64 beside those of the models: on the way to the file, and holes that they leave.
_BESIDE = 16
# Least part of an input that may be left when what other inputs say of it is taken away.
_SINGULAR = 1e-13


def _rows(task: Task) -> int:
    """How many rows of the weight are worked on at a time: a divisor of all."""
    rows, columns = task.shape
    most = max(1, min(rows, _BLOCK // max(1, columns)))
    return next(count for count in range(most, 0, -1) if rows % count == 0)


def _width(task: Task) -> int:
    return _rows(task) * task.shape[1] if task.statistics and task.numbers else 0


def held_bytes(task: Task, inputs: int) -> int:
    """Two square matrices as wide as the layer's input in float64, and blocks of rows of all inputs."""
    return 16 * task.shape[-1] ** 2 + 8 * max(_BLOCK, task.shape[-1]) * (2 * inputs + _BESIDE)


@merge_method(
    "regmean",
    base="input",
    width=_width,
    statistics="gram",
    held=held_bytes,
    parameters=(
        Parameter("statistics", str, None, per_input=True),
        Parameter("weight", float, 1.0, per_input=True),
        Parameter("alpha", float, 0.9),
        Parameter("ridge", float, 1e-6),
    ),
)
def regmean(task: Task) -> Steps:
    """Linear layers nearest in output to each model's on its own texts (Jin et al. 2023); else the mean.

    With the Gram matrix G of a model's inputs, a mean over tokens, its entries off the diagonal times alpha,
    and r on the diagonal, W = (sum of w W_i (G_i + r)) (sum of w (G_i + r))^-1: the least of the sum of
    w tr((W - W_i) (G_i + r) (W - W_i)'). r is `ridge` times the mean of all diagonals. So what no text
    tells comes out as the weighted mean.
    """
    weights = checked_weights(task)
    alpha, ridge = float(task.settings["alpha"]), float(task.settings["ridge"])
    if not 0 <= alpha <= 1 or not ridge >= 0:
        raise InputError(
            f"{task.name}: alpha is {alpha:g} and ridge {ridge:g}; alpha is from 0 to 1, ridge from 0 on."
        )
    if not task.statistics:
        return lambda chunk: weighted_mean(weights, chunk.inputs)
    factor, added = _factor(task, weights, alpha, ridge)
    return _apply(task, weights, alpha, factor, added)
    yield


def _factor(task: Task, weights: list[float], alpha: float, ridge: float) -> tuple[Tensor, float]:
    """The Cholesky factor of the sum of all Gram matrices, and what was added to each diagonal."""
    size = task.shape[1]
    total = torch.zeros(size, size, dtype=torch.float64)
    diagonal = 0.0
    for weight, gram in zip(weights, task.statistics, strict=True):
        for rows, part in _parts(gram, size, alpha):
            diagonal += float(part.diagonal(rows.start).sum())
            total[rows] += weight * part
    # Where no text ever reached the layer, all are as good, and the mean is taken.
    added = ridge * diagonal / (size * len(weights)) if diagonal else 1.0
    total.diagonal().add_(added * sum(weights))
    factor, failed = torch.linalg.cholesky_ex(total)
    # By rounding alone, what is singular may have a factor, which says nothing.
    if int(failed) or bool((factor.diagonal() ** 2 < _SINGULAR * total.diagonal()).any()):
        raise InputError(
            f"{task.name}: the Gram matrices are singular: the texts have fewer tokens than the layer has "
            f"inputs, or some depend on others. With alpha {alpha:g}, ridge {ridge:g} is too little: "
            "set alpha below 1 (0.9), or ridge above 0 (1e-6 and more), or gather statistics on more texts."
        )
    return factor, added


def _apply(task: Task, weights: list[float], alpha: float, factor: Tensor, added: float) -> Apply:
    size = task.shape[1]

    def apply(chunk: Chunk) -> Tensor:
        first = chunk.inputs[0]
        made = torch.zeros(first.numel() // size, size, dtype=torch.float64)
        for weight, given, gram in zip(weights, chunk.inputs, task.statistics, strict=True):
            matrix = given.double().view(-1, size)
            for rows, part in _parts(gram, size, alpha):
                made.addmm_(matrix[:, rows], part, alpha=weight)
            made.add_(matrix, alpha=weight * added)
        solved = torch.cholesky_solve(made.T, factor).T
        return solved.reshape(first.shape).to(first.dtype)

    return apply


def _parts(gram: Statistics, size: int, alpha: float) -> Iterator[tuple[slice, Tensor]]:
    """Rows of a Gram matrix, what is off its diagonal times alpha."""
    step = max(1, _BLOCK // size)
    for start in range(0, size, step):
        stop = min(start + step, size)
        part = gram.part(start * size, stop * size).view(-1, size)
        diagonal = part.diagonal(start).clone()
        part = part * alpha
        part.diagonal(start).copy_(diagonal)
        yield slice(start, stop), part
