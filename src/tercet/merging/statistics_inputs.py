"""The statistics of a recipe's models: files opened once, held to their models, and matched with tensors."""

from __future__ import annotations

__all__ = ["GatheredInput", "GatheredStatistics"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tercet.checkpoint.hashing import hash_weights
from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.tensors import TensorReader
from tercet.errors import CheckpointError, InputError
from tercet.merging.derived import read_rows
from tercet.merging.folder import ModelFolder
from tercet.merging.method import Statistics
from tercet.merging.names import Place
from tercet.merging.statistics_file import Kind, StatisticsFile, key_of, read_statistics
from tercet.merging.vocabulary import RowsTensor

_KINDS: Mapping[Kind, str] = {"gram": "Gram matrices", "fisher": "Fisher information"}


@dataclass(frozen=True, slots=True)
class GatheredInput:
    """One input of a tensor: its model, its place there, what is stored of it, and the file that is named."""

    model: ModelFolder
    place: Place
    stored: TensorInfo
    named: Any


class GatheredStatistics:
    """What a recipe's files say of each tensor.

    Attributes:
        files: model -> its file, of all models that were asked for so far.
        without: tensors that were asked for and have none where they might.
    """

    def __init__(self, kind: Kind, where: str) -> None:
        """Of one kind; `where` is what errors call the recipe."""
        self.kind: Kind = kind
        self.where = where
        self.files: dict[str, Path] = {}
        self.without: list[str] = []
        self._opened: dict[tuple[str, str], StatisticsFile] = {}
        self._reader = TensorReader()

    def of(self, part: str, shown: str, inputs: Sequence[GatheredInput]) -> tuple[Statistics, ...]:
        """The statistics of each input, or none where the files have none of this tensor.

        Args:
            part: key of the part that the tensor belongs to.
            shown: what errors and notes call the tensor.
            inputs: what it is made of.

        Raises:
            InputError: a model names no file, or is of a kind that has none.
            CheckpointError: a file belongs to other weights, or lacks what another has.
        """
        files = [self._open(one, shown) for one in inputs]
        found = [
            file.find(self.kind, key_of(part, one.place)) for file, one in zip(files, inputs, strict=True)
        ]
        if not any(found):
            # Gram matrices are of linear layers: that biases and norms have none goes without saying.
            if self.kind == "fisher" or len(inputs[0].stored.shape) > 1:
                self.without.append(shown)
            return ()
        made = []
        for file, one, info in zip(files, inputs, found, strict=True):
            if info is None:
                raise CheckpointError(
                    f"{file.path} has no {_KINDS[self.kind]} of {shown}, other models' files have. Gather "
                    f"them for all in the same way: tercet merge statistics {one.model.name} TEXTS OUT"
                )
            made.append(Statistics(self._part(one, info), file.fisher_mean or 0.0))
        return tuple(made)

    def note(self) -> str | None:
        """A sentence on tensors that become a mean; None where there are none."""
        if not self.without:
            return None
        more = f" and {len(self.without) - 4} more" if len(self.without) > 4 else ""
        beside = ", like biases and norms" if self.kind == "gram" else ""
        what = f"without {_KINDS[self.kind]} of their own{beside}"
        return f"Averaged, {what}: {', '.join(self.without[:4])}{more}."

    def _open(self, one: GatheredInput, shown: str) -> StatisticsFile:
        model = one.model
        if one.named is None:
            raise InputError(
                f"{self.where}: {model.name} has no statistics for {shown}. Gather them with: tercet merge "
                f"statistics {model.name} TEXTS OUT; and name OUT as statistics in the model's parameters."
            )
        key = model.name, str(one.named)
        if key in self._opened:
            return self._opened[key]
        if model.adapter is not None or not all(file.is_file() for file in model.files):
            what = (
                "a model with an adapter" if model.adapter is not None else "the result of another document"
            )
            raise InputError(
                f"{self.where}: {model.name} is {what}, whose weights are in no folder that statistics could "
                "be gathered with. Merge it first, and name that folder."
            )
        file = read_statistics(one.named)
        if not file.has(self.kind):
            raise InputError(
                f"{self.where}: {file.path} holds no {_KINDS[self.kind]}. Gather them with: tercet merge "
                f"statistics {model.name} TEXTS {file.path} --kinds {self.kind} --overwrite"
            )
        weights = hash_weights(model.folder, model.files)
        if weights != file.weights_sha256:
            raise CheckpointError(
                f"{file.path} was gathered with other weights (sha256 {file.weights_sha256[:12]}) than those "
                f"of {model.name} ({weights[:12]}). Name the file of this model, or gather it anew: "
                f"tercet merge statistics {model.name} TEXTS {file.path} --overwrite"
            )
        self._opened[key] = file
        self.files[model.name] = file.path
        return file

    def _part(self, one: GatheredInput, info: TensorInfo) -> _Gathered:
        stored = one.stored
        rows = isinstance(stored, RowsTensor)
        expected = (stored.shape[-1],) * 2 if self.kind == "gram" else tuple(stored.shape)
        fits = info.shape[1:] == expected[1:] if rows else info.shape == expected
        if not fits or info.dtype != "float32":
            raise CheckpointError(
                f"{info.file}: {info.name!r} is {info.shape} in {info.dtype}, for {one.model.name} it would "
                f"be {expected} in float32. Gather the statistics anew."
            )
        ordered = stored if isinstance(stored, RowsTensor) and self.kind == "fisher" else None
        return _Gathered(self._reader, info, ordered)


@dataclass(frozen=True, slots=True)
class _Gathered:
    """Reads statistics; `ordered` is the table whose rows were put in another order, where they were."""

    reader: TensorReader
    info: TensorInfo
    ordered: RowsTensor | None

    def __call__(self, start: int, stop: int) -> Tensor:
        found = (
            self.reader.part(self.info, start, stop).double()
            if self.ordered is None
            else self._rows(self.ordered, start, stop)
        )
        if not bool(found.isfinite().all()) or (
            self.info.name.startswith("fisher/") and bool((found < 0).any())
        ):
            raise CheckpointError(
                f"{self.info.file}: {self.info.name!r} holds what no statistics are (NaN, infinite, or below "
                "0). Gather the statistics anew."
            )
        return found

    def _rows(self, ordered: RowsTensor, start: int, stop: int) -> Tensor:
        """The same in the order of the result's tokens; 0 for rows that are not the model's own."""
        width = max(1, ordered.numbers // ordered.shape[0])
        first, last = start // width, -(-stop // width)
        table = ordered.own_rows(first, last)
        made = torch.zeros(last - first, width, dtype=torch.float64)
        own = torch.from_numpy(table >= 0)
        if own.any():
            made[own] = read_rows(self.reader, self.info, table[table >= 0])
        return made.reshape(-1)[start - first * width : stop - first * width]
