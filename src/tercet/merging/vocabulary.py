"""Vocabularies put in order by token: every model's table has the rows of the result's tokenizer.

The rules are mergekit's. A row that a model has is taken to its new place. One that it lacks is the base
model's, else that of the only model that has the token, else the mean of those that have it; `tokens` may say
otherwise. Rows beyond the vocabulary are the mean of all others (Hewitt 2021, "Initializing New Word
Embeddings").
"""

from __future__ import annotations

__all__ = ["RowsTensor", "Vocabulary", "align_vocabularies"]

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.paths import inside
from tercet.checkpoint.tensors import TensorReader
from tercet.errors import CheckpointError, InputError
from tercet.merging.derived import DerivedTensor, read_rows
from tercet.merging.folder import ENCODER, ModelFolder, Part
from tercet.merging.recipe import MergeRecipe, ModelName
from tercet.merging.tokenizer_file import TokenizerFile, read_tokenizer, token_ids, union, with_tokens

_TABLE = re.compile(
    r"(?:^|\.)(?:word_embeddings|embed_tokens|tok_embeddings|wte|shared|embeddings?)\.weight$|^embeddings$"
)
_OF_TOKENS = re.compile(
    r"(?:^|\.)(?:lm_head(?:\.decoder)?|predictions(?:\.decoder)?|vocab_projector|generator_lm_head|decoder)"
    r"\.(?:weight|bias)$"
)
# What `pick` of a row says besides a model's number.
_ZERO, _MEAN = -1, -2
_PASS_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The result's tokenizer.

    Attributes:
        owner: the model whose tokenizer files and special tokens it has.
        content: of tokenizer.json; None where it is the owner's, unchanged.
        rows: of each table of tokens; None where tables stay as they are.
    """

    owner: ModelFolder
    content: Mapping[str, Any] | None
    rows: int | None


@dataclass(frozen=True, slots=True)
class _Order:
    """Which rows make the tables of the result.

    Attributes:
        table: int64 (models, tokens), the row of each token in each model, -1 where it has none.
        pick: int64 (tokens,), the model whose row fills a gap, or _ZERO, or _MEAN.
        pick_row: int64 (tokens,), which row of it.
        force: bool (tokens,), whether it also replaces a model's own row.
        rows: tokens and what pads them.
    """

    table: np.ndarray
    pick: np.ndarray
    pick_row: np.ndarray
    force: np.ndarray
    rows: int


@dataclass(frozen=True, slots=True, eq=False)
class RowsTensor(DerivedTensor):
    """A table of one model in the order of the result's tokens.

    Attributes:
        order: of the rows.
        model: which of the models this is.
        sources: the same table of every model, None where it has none.
        padding: the mean row, once it was found.
    """

    order: _Order
    model: int
    sources: tuple[TensorInfo | None, ...]
    padding: list[Tensor] = field(default_factory=list)

    def part(self, reader: TensorReader, start: int, stop: int) -> Tensor:
        """Some numbers in float64."""
        width = max(1, self.numbers // self.shape[0])
        first, last = start // width, -(-stop // width)
        tokens = self.order.table.shape[1]
        made = self._tokens(reader, first, min(last, tokens), width)
        if last > tokens:
            pads = self._mean_row(reader, width).expand(last - max(first, tokens), width)
            made = torch.cat([made, pads])
        return made.reshape(-1)[start - first * width : stop - first * width]

    def own_rows(self, first: int, last: int) -> np.ndarray:
        """int64, of each of these rows the one that it is in the model; -1 of one from elsewhere."""
        rows = np.full(last - first, -1, dtype=np.int64)
        tokens = slice(first, min(last, self.order.table.shape[1]))
        own, force = self.order.table[self.model, tokens], self.order.force[tokens]
        rows[: len(own)] = np.where(force, -1, own)
        return rows

    def _tokens(self, reader: TensorReader, first: int, last: int, width: int) -> Tensor:
        made = torch.zeros(max(0, last - first), width, dtype=torch.float64)
        if not len(made):
            return made
        span, order = slice(first, last), self.order
        own = (order.table[self.model, span] >= 0) & ~order.force[span]
        self._fill(made, reader, own, self.model, order.table[self.model, span])
        pick = np.where(own, _ZERO, order.pick[span])
        for source in np.unique(pick[pick >= 0]):
            self._fill(made, reader, pick == source, int(source), order.pick_row[span])
        mean = pick == _MEAN
        if mean.any():
            count = np.zeros(len(made))
            for source, info in enumerate(self.sources):
                there = mean & (order.table[source, span] >= 0)
                if info is not None and there.any():
                    rows = read_rows(reader, info, order.table[source, span][there])
                    made[torch.from_numpy(there)] += rows
                    count[there] += 1
            made[torch.from_numpy(mean)] /= torch.from_numpy(np.maximum(count[mean], 1)).unsqueeze(1)
        return made

    def _fill(
        self, made: Tensor, reader: TensorReader, where: np.ndarray, source: int, rows: np.ndarray
    ) -> None:
        if not where.any():
            return
        info = self.sources[source]
        if info is None:
            raise CheckpointError(
                f"{self.name}: tokens take their rows from a model that has no such tensor. Give them "
                "another source in tokenizer.tokens."
            )
        made[torch.from_numpy(where)] = read_rows(reader, info, rows[where])

    def _mean_row(self, reader: TensorReader, width: int) -> Tensor:
        if not self.padding:
            tokens = self.order.table.shape[1]
            total = torch.zeros(width, dtype=torch.float64)
            for first in range(0, tokens, _PASS_ROWS):
                total += self._tokens(reader, first, min(first + _PASS_ROWS, tokens), width).sum(0)
            self.padding.append(total / tokens)
        return self.padding[0]


def align_vocabularies(
    recipe: MergeRecipe, models: Mapping[ModelName, ModelFolder]
) -> tuple[dict[ModelName, ModelFolder], Vocabulary | None, list[str]]:
    """The models with their tables in the order of one tokenizer, that tokenizer, and notes.

    Without tokenizer or tokenizer_source in the recipe the models come back as they are, with None.

    Raises:
        CheckpointError: a model has no tokenizer.json or no table, or their tokenizers have no union.
        InputError: the recipe names a model or token that is not there.
    """
    wish = recipe.tokenizer
    if wish is None:
        return dict(models), None, []
    names = list(models)
    first = recipe.base if recipe.base is not None and recipe.base in models else names[0]
    chosen = first if isinstance(wish.source, str) else wish.source
    if chosen not in models:
        known = ", ".join(["union", "base", *map(str, names)])
        raise InputError(
            f"{recipe.where}: the tokenizer's source is {chosen}, none of {known}. Name one of these."
        )
    files = {name: read_tokenizer(_tokenizer_path(model)) for name, model in models.items()}
    owner = models[chosen]
    content: Mapping[str, Any] = files[chosen].content
    if wish.source == "union":
        content = union([files[chosen], *(file for name, file in files.items() if name != chosen)])
    content = with_tokens(content, wish.tokens, files[chosen].path) if wish.tokens else content
    unchanged = content == files[chosen].content
    tables = {name: _table(model) for name, model in models.items()}
    sizes = {info.shape[0] for info in tables.values()}
    same = all(file.ids == files[chosen].ids for file in files.values())
    if unchanged and same and len(sizes) == 1 and not wish.tokens and not wish.pad_to_multiple_of:
        return dict(models), Vocabulary(owner, None, None), []
    made = files[chosen] if unchanged else TokenizerFile(files[chosen].path, content, token_ids(content))
    order, notes = _order(recipe, made, files, tables)
    ordered = {
        name: _reordered(model, number, order, list(models.values()), tables)
        for number, (name, model) in enumerate(models.items())
    }
    return ordered, Vocabulary(owner, None if unchanged else content, order.rows), notes


def _tokenizer_path(model: ModelFolder) -> Path:
    return inside(model.folder, f"{model.encoder_path}/tokenizer.json".lstrip("/"), said_by="modules.json")


def _table(model: ModelFolder) -> TensorInfo:
    found = [info for place, info in model.parts[ENCODER].tensors.items() if _TABLE.search(place.pattern)]
    if not found or not found[0].shape:
        raise CheckpointError(
            f"{model.name} has no table of tokens by a known name (such as word_embeddings.weight), so it "
            "cannot be put in order. Leave out tokenizer_source."
        )
    return found[0]


def _order(
    recipe: MergeRecipe,
    made: TokenizerFile,
    files: Mapping[ModelName, TokenizerFile],
    tables: Mapping[ModelName, TensorInfo],
) -> tuple[_Order, list[str]]:
    wish = recipe.tokenizer
    assert wish is not None
    names = list(files)
    tokens = max(made.ids.values()) + 1
    table = np.full((len(names), tokens), -1, dtype=np.int64)
    notes = []
    for number, name in enumerate(names):
        own, rows = files[name].ids, tables[name].shape[0]
        for token, place in made.ids.items():
            table[number, place] = own.get(token, -1)
        beyond = int((table[number] >= rows).sum())
        if beyond:
            table[number][table[number] >= rows] = -1
            notes.append(
                f"{beyond:,} tokens of {name} have no row in its table of {rows:,}; they count as missing."
            )
    having = (table >= 0).sum(0)
    only = (table >= 0).argmax(0)
    pick = np.where(having == 1, only, np.where(having == 0, _ZERO, _MEAN))
    if recipe.base is not None and recipe.base in files:
        base = names.index(recipe.base)
        pick = np.where(table[base] >= 0, base, pick)
    pick_row = np.take_along_axis(table, np.maximum(pick, 0)[None], 0)[0]
    force = np.zeros(tokens, dtype=bool)
    for token, one in wish.tokens.items():
        place, where = made.ids[token], f"{recipe.where}, tokenizer.tokens[{token!r}]"
        force[place] = one.force
        if one.kind == "zero":
            pick[place] = _ZERO
        if one.model is None:
            continue
        if one.model not in files:
            raise InputError(f"{where}: {one.model} is none of the models that are merged.")
        source = names.index(one.model)
        row = one.token if isinstance(one.token, int) else files[one.model].ids.get(one.token or token, -1)
        if not 0 <= row < tables[one.model].shape[0]:
            raise InputError(
                f"{where}: {one.model} has no row for {token if one.token is None else one.token!r}."
            )
        pick[place], pick_row[place] = source, row
    nowhere = int(((pick == _ZERO) & (having == 0)).sum())
    if nowhere:
        notes.append(f"{nowhere:,} tokens have no row in any model; theirs are zero.")
    multiple = wish.pad_to_multiple_of or 1
    return _Order(table, pick, pick_row, force, -(-tokens // multiple) * multiple), notes


def _reordered(
    model: ModelFolder,
    number: int,
    order: _Order,
    models: Sequence[ModelFolder],
    tables: Mapping[ModelName, TensorInfo],
) -> ModelFolder:
    """The model with every tensor that has a row for each token in the new order."""
    rows = [info.shape[0] for info in tables.values()]
    parts = {}
    for key, part in model.parts.items():
        tensors = dict(part.tensors)
        for place, info in part.tensors.items():
            if not info.shape or info.shape[0] != rows[number] or not _has_tokens(key, place.pattern):
                continue
            others = [m.parts[key].tensors.get(place) if key in m.parts else None for m in models]
            sources = tuple(
                one if one is not None and one.shape and one.shape[0] == size else None
                for one, size in zip(others, rows, strict=True)
            )
            widths = {one.shape[1:] for one in sources if one is not None}
            if len(widths) > 1:
                continue  # of other sizes: refused where tensors are put together, with all of them named
            shape = (order.rows, *info.shape[1:])
            tensors[place] = RowsTensor(
                info.name, info.dtype, shape, info.file, info.offset, order, number, sources
            )
        parts[key] = Part(part.path, tensors, part.stored)
    return replace(model, parts=parts)


def _has_tokens(key: str, pattern: str) -> bool:
    if key != ENCODER:
        return key.startswith("SparseStaticEmbedding")
    return bool(_TABLE.search(pattern) or _OF_TOKENS.search(pattern))
