"""Fewer vectors a text: those of late interaction that say nearly the same become their mean."""

from __future__ import annotations

__all__ = ["pool_rows", "pool_tokens"]

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tercet.embeddings import MultiVectors
from tercet.errors import InputError
from tercet.quantization.clusters import ward


def pool_tokens(multivectors: MultiVectors, pool_factor: float, *, protected: int = 0) -> MultiVectors:
    """The same texts with about 1 / pool_factor of their vectors (Clavié, Chaffin & Adams 2024).

    The vectors of each text are clustered by Ward's method on their cosine distance, and each of the
    max(1, rows // pool_factor) clusters becomes its mean, made unit length again, in the order of the
    clusters' first rows. As sentence-transformers' HierarchicalTokenPooling does, but for that order, which
    late interaction does not see. A text of n rows takes 8 n² bytes while it is worked on.

    Args:
        multivectors: unit rows.
        pool_factor: 1 (nothing is pooled) or more; fractions are allowed.
        protected: leading rows of each text that are kept as they are, and not counted: 1 for a [CLS].
    """
    if not (math.isfinite(pool_factor) and pool_factor >= 1.0):
        raise InputError(f"pool_factor is {pool_factor}; give a number of at least 1 (2 halves the vectors).")
    if protected < 0:
        raise InputError(f"protected is {protected}; give the number of leading rows to keep, 0 or more.")
    vectors = multivectors.vectors
    if pool_factor == 1.0 or len(vectors) == 0:
        return multivectors
    if not bool(torch.isfinite(vectors).all()):
        row = int((~torch.isfinite(vectors).all(dim=1)).nonzero()[0])
        raise InputError(
            f"Row {row} of the multi-vectors is not finite; there is no distance to it. Embed anew."
        )
    parts = [pool_rows(rows.vectors, pool_factor, protected=protected) for rows in multivectors]
    lengths = torch.tensor([0, *(len(part) for part in parts)], device=multivectors.offsets.device)
    return MultiVectors(torch.cat(parts), lengths.cumsum(0))


def pool_rows(rows: Tensor, pool_factor: float, *, protected: int = 0, normalize: bool = True) -> Tensor:
    """`pool_tokens` of one text's vectors; without `normalize` a cluster becomes its mean as it is."""
    kept, free = rows[:protected], rows[protected:]
    clusters = max(1, int(len(free) // pool_factor))
    if clusters >= len(free):
        return rows
    wide = torch.promote_types(rows.dtype, torch.float32)
    unit = free.detach().double().cpu().numpy()
    distances = np.clip(1.0 - unit @ unit.T, 0.0, 2.0)
    # A product of a matrix with itself may differ in the last bit on either side of the diagonal.
    distances = np.minimum(distances, distances.T)
    owner = torch.from_numpy(ward(distances, clusters)).to(rows.device)
    sums = torch.zeros(clusters, rows.shape[1], dtype=wide, device=rows.device)
    sums.index_add_(0, owner, free.to(wide))
    if normalize:
        # Of unit length, the mean is what the sum is.
        return torch.cat([kept, functional.normalize(sums, dim=1).to(rows.dtype)])
    sizes = torch.bincount(owner, minlength=clusters)
    return torch.cat([kept, (sums / sizes[:, None]).to(rows.dtype)])
