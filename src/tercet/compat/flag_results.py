"""FlagEmbedding's forms of pairs, weights and results, and ours."""

from __future__ import annotations

__all__ = [
    "Lexical",
    "checked_pairs",
    "checked_weights",
    "colbert_arrays",
    "lexical_dicts",
    "lexical_scores",
]

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from tercet.embeddings import MultiVectors, SparseVectors
from tercet.errors import InputError
from tercet.scoring import sparse_scores

Lexical = Mapping[str, float]


def lexical_dicts(sparse: SparseVectors | None) -> list[defaultdict[str, float]] | None:
    """{str(token id): weight} of each text; what is not there counts as 0."""
    if sparse is None:
        return None
    return [
        defaultdict(float, {str(token_id): weight for token_id, weight in weights.items()})
        for weights in sparse.to_dicts()
    ]


def colbert_arrays(multivector: MultiVectors | None) -> list[NDArray[Any]] | None:
    """(tokens, dim) of each text, in the memory of all."""
    if multivector is None:
        return None
    arrays = multivector.numpy()
    return [arrays.vectors[start:end] for start, end in pairwise(arrays.offsets.tolist())]


def lexical_scores(first: Sequence[Lexical], second: Sequence[Lexical]) -> Tensor:
    """(first, second) float64; names of tokens may be anything."""
    names = {
        name: place
        for place, name in enumerate(sorted({n for side in (first, second) for w in side for n in w}))
    }
    return sparse_scores(_vectors(first, names), _vectors(second, names))


def _vectors(several: Sequence[Lexical], names: Mapping[str, int]) -> SparseVectors:
    entries = [
        sorted((names[name], float(weight)) for name, weight in weights.items()) for weights in several
    ]
    flat = [entry for text in entries for entry in text]
    return SparseVectors(
        torch.tensor([place for place, _ in flat], dtype=torch.int64),
        torch.tensor([weight for _, weight in flat], dtype=torch.float64),
        torch.tensor([0, *(len(text) for text in entries)], dtype=torch.int64).cumsum(0),
        len(names),
    )


def checked_pairs(given: Sequence[Sequence[str]] | tuple[str, str]) -> tuple[list[tuple[str, str]], bool]:
    """The pairs, and whether it was one alone."""
    several = list(given)
    alone = bool(several) and isinstance(several[0], str)
    pairs = []
    for number, pair in enumerate([several] if alone else several):
        if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise InputError(
                f"pair {number} is {pair!r}. Pass (query, passage), both strings, or a list of such pairs."
            )
        pairs.append((str(pair[0]), str(pair[1])))
    return pairs, alone


def checked_weights(given: Sequence[float] | None) -> tuple[float, float, float]:
    """Weights of dense, sparse and colbert; equal ones where none are given."""
    if given is None:
        return 1.0, 1.0, 1.0
    weights = tuple(float(weight) for weight in given)
    if len(weights) != 3:
        raise InputError(
            f"weights_for_different_modes has {len(weights)} numbers; give three: of dense, "
            "sparse and colbert."
        )
    return weights[0], weights[1], weights[2]
