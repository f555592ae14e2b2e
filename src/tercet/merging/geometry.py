"""Tensors as vectors: their products over all chunks, and combinations of them."""

from __future__ import annotations

__all__ = ["combination", "products", "slerp_coefficients", "unit_products"]

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tercet.merging.method import Chunk, Pass

Vectors = Callable[[Chunk], Sequence[Tensor]]


def products(vectors: Vectors) -> Pass[Tensor]:
    """The pass that gives (vectors, vectors) dot products over the whole tensor, in float64."""

    def statistics(chunk: Chunk) -> Tensor:
        flat = torch.stack([vector.double().reshape(-1) for vector in vectors(chunk)])
        return flat @ flat.T

    return Pass(statistics)


def unit_products(gram: Tensor) -> tuple[Tensor, Tensor]:
    """(vectors,) norms, and (vectors, vectors) cosines; a vector of zeros has cosine 0 with all."""
    norms = gram.diagonal().clamp(min=0).sqrt()
    safe = torch.where(norms > 0, norms, torch.ones_like(norms))
    return norms, gram / safe / safe.unsqueeze(1)


def combination(coefficients: Sequence[float], vectors: Sequence[Tensor]) -> Tensor:
    """The sum of vectors, each times its coefficient: in float64, then in their own dtype."""
    total = torch.zeros_like(vectors[0], dtype=torch.float64)
    for coefficient, vector in zip(coefficients, vectors, strict=True):
        total.add_(vector.double(), alpha=coefficient)
    return total.to(vectors[0].dtype)


def slerp_coefficients(cosine: float, t: float) -> tuple[float, float]:
    """What to multiply two vectors with that have this angle, to go the part t from one to the other."""
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
