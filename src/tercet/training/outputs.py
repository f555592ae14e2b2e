"""What a model gives for several texts while it is trained: tensors that know their gradients."""

from __future__ import annotations

__all__ = ["OUTPUTS", "Outputs"]

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tercet.embeddings import MultiVectors, SparseVectors
from tercet.errors import InputError

OUTPUTS = ("dense", "sparse", "multivector")


@dataclass(frozen=True, slots=True)
class Outputs:
    """The outputs of several texts, of which at least one is there.

    Attributes:
        dense: (texts, dim).
        sparse: of each text the weights of its token ids, those of 0 among them, as `pool_tokens` gives them:
            so the entries depend on the token ids alone, never on a weight.
        multivector: vectors of each text's tokens.
    """

    dense: Tensor | None = None
    sparse: SparseVectors | None = None
    multivector: MultiVectors | None = None

    def __post_init__(self) -> None:
        counts = {name: len(value) for name, value in self._present()}
        if not counts:
            raise InputError("Outputs hold nothing: give at least one of dense, sparse and multivector.")
        if len(set(counts.values())) > 1:
            raise InputError(
                f"Outputs of different numbers of texts: {counts}. Encode the same texts for all."
            )
        if self.dense is not None and self.dense.ndim != 2:
            raise InputError(f"Dense outputs are (texts, dim), not {tuple(self.dense.shape)}.")

    @property
    def names(self) -> tuple[str, ...]:
        """Those of `OUTPUTS` that are there, in its order."""
        return tuple(name for name, _ in self._present())

    def __len__(self) -> int:
        return len(self._present()[0][1])

    def __getitem__(self, texts: slice) -> Outputs:
        return Outputs(
            None if self.dense is None else self.dense[texts],
            None if self.sparse is None else self.sparse[texts],
            None if self.multivector is None else self.multivector[texts],
        )

    def tensors(self) -> list[Tensor]:
        """The tensors that gradients flow through, in the order of `OUTPUTS`."""
        sparse = None if self.sparse is None else self.sparse.weights
        late = None if self.multivector is None else self.multivector.vectors
        return [tensor for tensor in (self.dense, sparse, late) if tensor is not None]

    def only(self, names: Sequence[str]) -> Outputs:
        """Those of the outputs that are named."""
        return Outputs(**{name: value for name, value in self._present() if name in names})  # type: ignore[arg-type]

    def replace(self, tensors: Sequence[Tensor]) -> Outputs:
        """The same outputs with other tensors in the place of `tensors()`."""
        given = dict(zip(self.names, tensors, strict=True))
        sparse, late = self.sparse, self.multivector
        if sparse is not None:
            sparse = SparseVectors(sparse.token_ids, given["sparse"], sparse.offsets, sparse.vocabulary)
        if late is not None:
            late = MultiVectors(given["multivector"], late.offsets)
        return Outputs(given.get("dense"), sparse, late)

    @classmethod
    def concat(cls, parts: Sequence[Outputs]) -> Outputs:
        """Those of all parts, in order; all parts hold the same outputs."""
        names = {part.names for part in parts}
        if len(names) != 1:
            raise InputError(f"Parts that hold different outputs cannot be joined: {sorted(names)}.")
        dense = [part.dense for part in parts if part.dense is not None]
        sparse = [part.sparse for part in parts if part.sparse is not None]
        late = [part.multivector for part in parts if part.multivector is not None]
        return cls(
            torch.cat(dense) if dense else None,
            SparseVectors.concat(sparse) if sparse else None,
            MultiVectors.concat(late) if late else None,
        )

    def _present(self) -> list[tuple[str, Tensor | SparseVectors | MultiVectors]]:
        found = zip(OUTPUTS, (self.dense, self.sparse, self.multivector), strict=True)
        return [(name, value) for name, value in found if value is not None]
