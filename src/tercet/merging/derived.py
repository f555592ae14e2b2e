"""Tensors that are made while they are read: what a merge sees of a file is not always what is in it."""

from __future__ import annotations

__all__ = ["DerivedTensor", "read_part", "read_rows"]

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.tensors import TensorReader

# Rows that lie one after another are read at once; with more pieces than this they are gathered.
_MOST_RUNS = 32


@dataclass(frozen=True, slots=True, eq=False)
class DerivedTensor(TensorInfo):
    """A tensor under name, dtype and file of the one that it is mainly made of, perhaps of another shape."""

    def part(self, reader: TensorReader, start: int, stop: int) -> Tensor:
        """Some numbers of the flattened tensor, not rounded to `dtype`."""
        raise NotImplementedError


def read_part(reader: TensorReader, info: TensorInfo, start: int, stop: int) -> Tensor:
    """Some numbers of the flattened tensor: as stored, or as they are made."""
    return (
        info.part(reader, start, stop) if isinstance(info, DerivedTensor) else reader.part(info, start, stop)
    )


def read_rows(reader: TensorReader, info: TensorInfo, rows: np.ndarray) -> Tensor:
    """(len(rows), numbers of a row) in float64, in the order asked for.

    Args:
        reader: of the files.
        info: at least one dimension; a row is what it holds for one index of the first.
        rows: int64, each within the first dimension.
    """
    width = info.numbers // info.shape[0]
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    if len(cuts) >= _MOST_RUNS and not isinstance(info, DerivedTensor):
        # The file's pages are given back, so that a table is never in memory as a whole.
        made = reader.stored(info).reshape(info.shape[0], width)[torch.from_numpy(rows)].double()
        reader.release(info)
        return made
    runs = np.split(rows, cuts)
    parts = [
        read_part(reader, info, int(run[0]) * width, (int(run[-1]) + 1) * width).double().reshape(-1, width)
        for run in runs
        if len(run)
    ]
    return torch.cat(parts) if parts else torch.empty(0, width, dtype=torch.float64)
