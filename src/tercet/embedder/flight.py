"""A batch's outputs on their way to the host, while the device computes the next batch's."""

from __future__ import annotations

__all__ = ["Flight", "Made"]

import torch
from torch import Tensor

from tercet.embeddings import MultiVectors, SparseVectors
from tercet.engines.transfer import Transfers

# What heads make: dense, sparse and multi-vector outputs, None where not asked for.
Made = tuple[Tensor | None, SparseVectors | None, MultiVectors | None]


class Flight:
    """Outputs that have left the device, in the dtype of results. Nothing here waits for it but `land`.

    Dense vectors are made without waiting for the device, too. Sparse and multi-vector outputs are as large
    as it finds them to be: their heads wait for that, so of them only the way home is hidden.

    Args:
        hidden: what the heads saw; whether all of it is finite travels along as one number.
        made: what they made of it, on the device.
        transfers: what brings it over.
        dtype: of the results.
    """

    def __init__(self, hidden: Tensor, made: Made, transfers: Transfers, dtype: torch.dtype) -> None:
        dense, sparse, multivector = made
        self._vocabulary = 0 if sparse is None else sparse.vocabulary
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        # A sum is finite only if everything in it is.
        leaving = {"sum": hidden.sum(dtype=wide)}
        if dense is not None:
            leaving["dense"] = dense.to(dtype)
        if sparse is not None:
            leaving["token_ids"], leaving["weights"] = sparse.token_ids, sparse.weights.to(dtype)
            leaving["sparse_offsets"] = sparse.offsets
        if multivector is not None:
            leaving["vectors"], leaving["rows_offsets"] = multivector.vectors.to(dtype), multivector.offsets
        self._pending = transfers.fetch({name: tensor.contiguous() for name, tensor in leaving.items()})

    def land(self) -> Made | None:
        """The outputs on the CPU; None where a hidden value was not finite, which makes them worthless."""
        there = self._pending.wait()
        if not bool(torch.isfinite(there["sum"])):
            return None
        sparse = multivector = None
        if "weights" in there:
            sparse = SparseVectors(
                there["token_ids"], there["weights"], there["sparse_offsets"], self._vocabulary
            )
        if "vectors" in there:
            multivector = MultiVectors(there["vectors"], there["rows_offsets"])
        return there.get("dense"), sparse, multivector
