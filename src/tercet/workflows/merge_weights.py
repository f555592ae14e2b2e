"""Weights of models by how well each does on a few examples (LM-Cocktail: Xiao et al. 2023)."""

from __future__ import annotations

__all__ = ["check_examples", "example_losses", "solve_weights", "weights_of"]

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tercet.checkpoint.hashing import hash_file
from tercet.checkpoint.reranker_files import is_reranker
from tercet.embedder import Embedder, load
from tercet.errors import InputError
from tercet.merging.examples_recipe import ExamplesRecipe, with_weights
from tercet.merging.recipe import MergeRecipe
from tercet.reranker import Reranker, load_reranker
from tercet.scoring import dense_scores, maxsim_scores, sparse_scores
from tercet.training.data.example import Example, example_of
from tercet.workflows.merge_plan import Fetch

_MAX_BYTES = 64 << 20
_MOST = 10_000
# What similarities of embeddings are divided by, in LM-Cocktail too.
_TEMPERATURE = 0.05


def solve_weights(recipe: MergeRecipe, fetch: Fetch, documents: Sequence[MergeRecipe] = ()) -> MergeRecipe:
    """The recipe with a weight for each model in place of its examples; itself where it has none.

    Raises:
        InputError: the examples cannot be read, or a model is the result of another document or an adapter.
        CheckpointError: a model cannot be loaded.
    """
    wish = recipe.examples
    if wish is None:
        return recipe
    examples = check_examples(recipe, documents)
    path = Path(wish.file)
    sources = [source.model for source in recipe.slices[0].sources]
    losses = [example_losses(fetch(model).folder, examples, wish, recipe.seed) for model in sources]
    weights = weights_of(losses, wish.temperature)
    shown = "".join(f"# {model}: loss {loss:.6g}\n" for model, loss in zip(sources, losses, strict=True))
    comment = (
        f"# Weights by {len(examples)} examples of {path.name} (sha256 {hash_file(path)}),\n"
        f"# softmax(-loss / {wish.temperature:g}):\n{shown}"
    )
    return with_weights(recipe, weights, comment)


def check_examples(recipe: MergeRecipe, documents: Sequence[MergeRecipe] = ()) -> list[Example]:
    """The examples that decide the weights of a recipe; none where it has none. No model is read.

    Raises:
        InputError: they cannot be read, or a model is the result of another document or an adapter.
    """
    wish = recipe.examples
    if wish is None:
        return []
    sources = [source.model for source in recipe.slices[0].sources]
    results = {one.name for one in documents if one.name is not None}
    for model in sources:
        if model.source in results or model.lora is not None:
            what = "the result of another document" if model.lora is None else "a model with an adapter"
            raise InputError(
                f"{recipe.where}: {model} is {what}, and examples need it as a folder. Merge it first, "
                "and name that folder."
            )
    return _read(Path(wish.file))


def weights_of(losses: Sequence[float], temperature: float) -> list[float]:
    """softmax(-loss / temperature): all above zero, and 1 in all."""
    return torch.softmax(-torch.tensor(losses, dtype=torch.float64) / temperature, 0).tolist()


def example_losses(
    folder: str | Path,
    examples: Sequence[Example | Mapping[str, Any]],
    wish: ExamplesRecipe,
    seed: int = 0,
) -> float:
    """The mean loss of a model over batches of examples.

    The cross-entropy of the first positive among all passages of the batch, by similarities over 0.05, summed
    over dense, sparse and multi-vector, as far as the model has them; its own pooling, prompts and
    normalisation count (dense vectors are compared at unit length). A reranker has the cross-entropy of the
    positive among each query's own passages, by its logits.

    Args:
        folder: of the model.
        examples: each a query with positives and negatives.
        wish: negatives, batch_size and max_length.
        seed: of the choice of negatives, the same for every model.
    """
    chosen = random.Random(seed)
    groups: list[tuple[str, list[str]]] = []
    for number, one in enumerate(examples, start=1):
        example = one if isinstance(one, Example) else example_of(one, f"example {number}")
        if example.prompt is not None:
            raise InputError(
                f"The example {example.query[:40]!r} has a prompt of its own; each model takes its own. "
                "Leave out 'prompt'."
            )
        negatives = list(example.negatives)
        if len(negatives) > wish.negatives:
            negatives = chosen.sample(negatives, wish.negatives)
        groups.append((example.query, [example.positives[0], *negatives]))
    if not groups or (len(groups) == 1 and len(groups[0][1]) == 1):
        raise InputError("One passage alone tells no models apart: give more examples, or negatives.")
    scores = _reranker_losses if is_reranker(folder) else _embedder_losses
    losses = scores(folder, groups, wish)
    return math.fsum(losses) / len(losses)


def _reranker_losses(
    folder: str | Path, groups: Sequence[tuple[str, list[str]]], wish: ExamplesRecipe
) -> list[float]:
    model: Reranker = load_reranker(folder, precision="float32", device="cpu")
    if model.num_labels != 1:
        raise InputError(f"{folder} gives {model.num_labels} labels a pair; examples need one score.")
    losses = []
    for query, passages in groups:
        if len(passages) == 1:
            raise InputError(f"The example {query[:40]!r} has no negatives, which a reranker needs.")
        limit = min(wish.max_length, model.max_length)
        logits = model.score([(query, p) for p in passages], activation="Identity", max_length=limit)
        losses.append(_cross_entropy(logits[None], torch.zeros(1, dtype=torch.int64)))
    return losses


def _embedder_losses(
    folder: str | Path, groups: Sequence[tuple[str, list[str]]], wish: ExamplesRecipe
) -> list[float]:
    model: Embedder = load(folder, precision="float32", device="cpu")
    limit = min(wish.max_length, model.max_length)
    losses = []
    for start in range(0, len(groups), wish.batch_size):
        batch = groups[start : start + wish.batch_size]
        passages = [passage for _, own in batch for passage in own]
        queries = model.encode_query([query for query, _ in batch], outputs=model.outputs, max_length=limit)
        found = model.encode_document(passages, outputs=model.outputs, max_length=limit)
        ends = torch.tensor([len(own) for _, own in batch]).cumsum(0)
        first = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
        loss = 0.0
        if queries.dense is not None and found.dense is not None:
            left, right = (functional.normalize(one.double(), dim=1) for one in (queries.dense, found.dense))
            loss += _cross_entropy(dense_scores(left, right) / _TEMPERATURE, first)
        if queries.sparse is not None and found.sparse is not None:
            loss += _cross_entropy(sparse_scores(queries.sparse, found.sparse) / _TEMPERATURE, first)
        if queries.multivector is not None and found.multivector is not None:
            late = maxsim_scores(queries.multivector, found.multivector)
            loss += _cross_entropy(late / _TEMPERATURE, first)
        losses.append(loss)
    return losses


def _cross_entropy(scores: Tensor, first: Tensor) -> float:
    return float(functional.cross_entropy(scores.double(), first))


def _read(path: Path) -> list[Example]:
    """The examples of a file of JSON lines."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes: a few hundred examples are enough.")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}. Give JSON lines of query, pos and neg.") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number} is not JSON: {error}.") from error
        if not isinstance(values, dict):
            raise InputError(f"{path}, line {number} is not an object with query, pos and neg.")
        found.append(example_of(values, f"{path}, line {number}"))
        if len(found) > _MOST:
            raise InputError(f"{path} has more than {_MOST:,} examples: a few hundred are enough.")
    return found
