"""Shorter vectors: the first dimensions of a model that was trained for it."""

from __future__ import annotations

__all__ = ["truncate", "truncate_multivectors"]

import torch
from torch import Tensor
from torch.nn import functional

from tercet.embeddings import MultiVectors
from tercet.errors import InputError


def truncate(vectors: Tensor, dimensions: int) -> Tensor:
    """(vectors, dimensions), the first columns, made unit length again (Kusupati et al. 2022).

    A row of zeros stays one. Half precision is normalised in float32 and given back in its own dtype.

    Raises:
        InputError: there are not so many columns.
    """
    if vectors.ndim != 2 or not 1 <= dimensions <= vectors.shape[1]:
        raise InputError(
            f"dimensions is {dimensions}, the vectors are {tuple(vectors.shape)}. "
            "Give vectors (vectors, dim) and 1 to dim."
        )
    wide = torch.promote_types(vectors.dtype, torch.float32)
    return functional.normalize(vectors[:, :dimensions].to(wide), dim=1).to(vectors.dtype)


def truncate_multivectors(multivectors: MultiVectors, dimensions: int) -> MultiVectors:
    """The same with each row shortened; see `truncate`."""
    return MultiVectors(truncate(multivectors.vectors, dimensions), multivectors.offsets)
