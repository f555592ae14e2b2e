"""How far embeddings lie from others of the same texts, head by head, in float64."""

from __future__ import annotations

__all__ = ["DenseDrift", "Drift", "DriftMeter", "MultiVectorDrift", "SparseDrift"]

from array import array
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tercet.embeddings import Embeddings, MultiVectors, SparseVectors
from tercet.errors import InputError, NonFiniteError
from tercet.evaluation.spread import Running, Spread, cosine_drift, norm_error


@dataclass(frozen=True, slots=True)
class DenseDrift:
    """Of dense vectors.

    Attributes:
        cosine: 1 - cosine of both vectors of a text.
        norm_error_mean, norm_error_worst: |length / length of the reference - 1|.
    """

    cosine: Spread
    norm_error_mean: float
    norm_error_worst: float


@dataclass(frozen=True, slots=True)
class SparseDrift:
    """Of lexical weights.

    Attributes:
        cosine: 1 - cosine of both rows of a text.
        weight_error_mean, weight_error_worst: |weight - weight of the reference| over the tokens that either
            has; a token that one lacks weighs 0 there.
        tokens: how many the reference has.
        gained, lost: tokens that only the other has, or only the reference.
    """

    cosine: Spread
    weight_error_mean: float
    weight_error_worst: float
    tokens: int
    gained: int
    lost: int


@dataclass(frozen=True, slots=True)
class MultiVectorDrift:
    """Of late-interaction vectors.

    Attributes:
        cosine: mean over a text's vectors of 1 - cosine; 0 for a text without any.
        token_mean, token_worst: of single vectors.
        worst_token: (position of the text, position of the vector in it).
        norm_error_mean, norm_error_worst: |length / length of the reference - 1|.
    """

    cosine: Spread
    token_mean: float
    token_worst: float
    worst_token: tuple[int, int]
    norm_error_mean: float
    norm_error_worst: float


@dataclass(frozen=True, slots=True)
class Drift:
    """Of every output that was compared; the others are None."""

    dense: DenseDrift | None
    sparse: SparseDrift | None
    multivector: MultiVectorDrift | None

    def to_json(self) -> dict[str, Any]:
        """Field -> plain value."""
        return asdict(self)


_SIDES = ("reference", "other embeddings")


class DriftMeter:
    """Takes embeddings in parts, and keeps one or a few numbers of each text."""

    def __init__(self, *, most_texts: int = 10) -> None:
        """An empty one; `most_texts` of those that drift most are named."""
        self._most = most_texts
        self._texts = 0
        self._heads: dict[str, _Dense | _Sparse | _MultiVector] = {}

    def add(self, reference: Embeddings, found: Embeddings) -> None:
        """Takes the next texts' embeddings from both sides.

        Raises:
            InputError: they are not of the same texts, or differ in outputs, widths or vocabulary.
            NonFiniteError: a value is not finite; the message names the text.
        """
        _check_same_texts(reference, found, self._texts)
        if not self._heads:
            self._heads = {name: _HEADS[name]() for name in reference.outputs}
        elif tuple(self._heads) != reference.outputs:
            raise InputError(
                f"These texts have the outputs {', '.join(reference.outputs)}, those before "
                f"{', '.join(self._heads)}. Embed all texts with the same outputs."
            )
        for name, head in self._heads.items():
            head.add(getattr(reference, name), getattr(found, name), self._texts)
        self._texts += len(reference)

    def cosines(self) -> dict[str, NDArray[np.float64]]:
        """Head -> (texts,), 1 - cosine of each text so far."""
        return {name: np.array(head.cosine) for name, head in self._heads.items()}

    def drift(self) -> Drift:
        """That of all texts so far.

        Raises:
            InputError: there were none.
        """
        if not self._texts:
            raise InputError("There is no drift of no text. Give at least one.")
        dense, sparse, multivector = (self._heads.get(name) for name in _HEADS)
        return Drift(
            dense.drift(self._most) if isinstance(dense, _Dense) else None,
            sparse.drift(self._most) if isinstance(sparse, _Sparse) else None,
            multivector.drift(self._most) if isinstance(multivector, _MultiVector) else None,
        )


class _Dense:
    def __init__(self) -> None:
        self.cosine = array("d")
        self._norms = Running()

    def add(self, reference: Tensor, found: Tensor, first: int) -> None:
        _check_rows("dense", reference, found)
        for side, rows in zip(_SIDES, (reference, found), strict=True):
            _check_finite(f"dense output of the {side}", rows, torch.arange(first, first + len(rows)))
        self.cosine.extend(cosine_drift(reference, found).tolist())
        self._norms.add(norm_error(reference, found))

    def drift(self, most: int) -> DenseDrift:
        return DenseDrift(Spread.of(self.cosine, most), self._norms.mean, self._norms.worst)


class _Sparse:
    def __init__(self) -> None:
        self.cosine = array("d")
        self._errors = Running()
        self._tokens = self._gained = self._lost = 0

    def add(self, reference: SparseVectors, found: SparseVectors, first: int) -> None:
        if reference.vocabulary != found.vocabulary:
            raise InputError(
                f"The sparse vectors have vocabularies of {reference.vocabulary} and {found.vocabulary}; "
                "only those of one model can be compared."
            )
        for name, side in zip(_SIDES, (reference, found), strict=True):
            _check_finite(f"sparse output of the {name}", side.weights[:, None], side.rows + first)
        keys = [side.keys() for side in (reference, found)]
        union = torch.unique(torch.cat(keys))
        weights = torch.zeros(2, len(union), dtype=torch.float64)
        there = torch.zeros(2, len(union), dtype=torch.bool)
        for number, (side, own) in enumerate(zip((reference, found), keys, strict=True)):
            places = torch.searchsorted(union, own)
            weights[number, places] = side.weights.double()
            there[number, places] = True
        owner = union // max(1, reference.vocabulary)
        lengths = (
            torch.zeros(2, len(reference), dtype=torch.float64).index_add_(1, owner, weights.square()).sqrt()
        )
        unit = weights / torch.where(lengths > 0.0, lengths, 1.0)[:, owner]
        drift = torch.zeros(len(reference), dtype=torch.float64)
        drift.index_add_(0, owner, (unit[0] - unit[1]).square() / 2.0)
        drift[(lengths[0] == 0.0) != (lengths[1] == 0.0)] = 1.0
        self.cosine.extend(drift.tolist())
        self._errors.add((weights[0] - weights[1]).abs())
        self._tokens += len(keys[0])
        self._gained += int((there[1] & ~there[0]).sum())
        self._lost += int((there[0] & ~there[1]).sum())

    def drift(self, most: int) -> SparseDrift:
        return SparseDrift(
            Spread.of(self.cosine, most),
            self._errors.mean,
            self._errors.worst,
            self._tokens,
            self._gained,
            self._lost,
        )


class _MultiVector:
    def __init__(self) -> None:
        self.cosine = array("d")
        self._tokens = Running()
        self._norms = Running()
        self._worst = (0, 0)

    def add(self, reference: MultiVectors, found: MultiVectors, first: int) -> None:
        if not torch.equal(reference.offsets, found.offsets):
            raise InputError(
                "The multi-vectors of a text have different numbers of rows on both sides; drift is told row "
                "by row. Compare pooled ones by their rankings."
            )
        _check_rows("multivector", reference.vectors, found.vectors)
        lengths = reference.lengths
        owner = torch.repeat_interleave(torch.arange(len(reference)), lengths)
        for side, rows in zip(_SIDES, (reference.vectors, found.vectors), strict=True):
            _check_finite(f"multivector output of the {side}", rows, owner + first)
        drift = cosine_drift(reference.vectors, found.vectors)
        sums = torch.zeros(len(reference), dtype=torch.float64).index_add_(0, owner, drift)
        self.cosine.extend((sums / lengths.clamp(min=1)).tolist())
        if self._tokens.add(drift):
            row = int(drift.argmax())
            text = int(owner[row])
            self._worst = (first + text, row - int(reference.offsets[text]))
        self._norms.add(norm_error(reference.vectors, found.vectors))

    def drift(self, most: int) -> MultiVectorDrift:
        return MultiVectorDrift(
            Spread.of(self.cosine, most),
            self._tokens.mean,
            self._tokens.worst,
            self._worst,
            self._norms.mean,
            self._norms.worst,
        )


_HEADS: dict[str, type[_Dense] | type[_Sparse] | type[_MultiVector]] = {
    "dense": _Dense,
    "sparse": _Sparse,
    "multivector": _MultiVector,
}


def _check_same_texts(reference: Embeddings, found: Embeddings, first: int) -> None:
    if reference.outputs != found.outputs:
        raise InputError(
            f"The reference has the outputs {', '.join(reference.outputs) or 'none'}, the other embeddings "
            f"{', '.join(found.outputs) or 'none'}. Embed with the same outputs."
        )
    if len(reference) != len(found):
        raise InputError(
            f"The reference has {len(reference)} texts, the other embeddings {len(found)}; drift is told "
            "text by text. Give the same texts."
        )
    different = (reference.num_tokens != found.num_tokens).nonzero()
    if len(different):
        text = int(different[0])
        raise InputError(
            f"text {first + text} has {int(reference.num_tokens[text])} tokens in the reference and "
            f"{int(found.num_tokens[text])} in the other embeddings; these are not the same texts, or were "
            "cut differently."
        )


def _check_rows(head: str, reference: Tensor, found: Tensor) -> None:
    if reference.shape != found.shape:
        raise InputError(
            f"The {head} vectors are {tuple(reference.shape)} and {tuple(found.shape)}; drift is told "
            "between vectors of one width. Embed with the same dimensions."
        )


def _check_finite(where: str, rows: Tensor, owners: Tensor) -> None:
    """An error that names the first text with a value that is not finite; `owners` (rows,) are the texts."""
    finite = torch.isfinite(rows).all(dim=1)
    if not bool(finite.all()):
        text = int(owners[int((~finite).nonzero()[0])])
        raise NonFiniteError(
            f"text {text} has a value that is not finite in the {where}; there is no drift of it. "
            "Embed it anew in float32."
        )
