"""FlagEmbedding's forms of pairs, weights and results, and ours."""

from __future__ import annotations

__all__ = [
    "Lexical",
    "checked_pairs",
    "checked_weights",
    "colbert_arrays",
    "lexical_dicts",
    "lexical_list",
    "lexical_scores",
]

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
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


def lexical_list(given: Lexical | Sequence[Lexical]) -> list[Lexical]:
    """The weights of each text, of one text in a list of one.

    Raises:
        InputError: what is given is no {token: weight}, and no list of such.
    """
    several: list[Any] = (
        [given] if isinstance(given, Mapping) or not isinstance(given, Iterable) else [*given]
    )
    for number, weights in enumerate(several):
        if not isinstance(weights, Mapping):
            raise InputError(
                f"lexical weights {number} are of type {type(weights).__name__}. Pass what encode gives "
                "under 'lexical_weights': a dict of token -> weight a text, or a list of these."
            )
    return several


def lexical_scores(first: Sequence[Lexical], second: Sequence[Lexical]) -> Tensor:
    """(first, second) float64; names of tokens may be anything."""
    both = [*first, *second]
    names = {name: place for place, name in enumerate(dict.fromkeys(n for weights in both for n in weights))}
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
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InputError(f"The pairs are of type {type(given).__name__}. Pass a list of (query, passage).")
    several: list[Any] = list(given)
    alone = bool(several) and isinstance(several[0], str)
    pairs = []
    for number, pair in enumerate([several] if alone else several):
        texts = list(pair) if isinstance(pair, (list, tuple, np.ndarray)) else []
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            raise InputError(
                f"pair {number} is {pair!r}. Pass (query, passage), both strings, or a list of such pairs."
            )
        pairs.append((str(texts[0]), str(texts[1])))
    return pairs, alone


def checked_weights(given: Sequence[float] | None) -> tuple[float, float, float]:
    """Weights of dense, sparse and colbert; equal ones where none are given."""
    if given is None:
        return 1.0, 1.0, 1.0
    try:
        weights = tuple(float(weight) for weight in given)
    except (TypeError, ValueError):
        weights = ()
    if len(weights) != 3:
        raise InputError(
            f"weights_for_different_modes is {given!r}; give three numbers: of dense, sparse and colbert."
        )
    return weights[0], weights[1], weights[2]
