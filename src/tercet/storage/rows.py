"""Rows of a file of vectors, and what each file format does with them."""

from __future__ import annotations

__all__ = ["Ids", "VectorFormat", "VectorRows"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from tercet.embeddings import Embeddings

Ids: TypeAlias = Sequence[int] | Sequence[str]


@dataclass(frozen=True, slots=True, eq=False)
class VectorRows:
    """Some texts' vectors, on their way into a file or out of one.

    Attributes:
        embeddings: the vectors, in the file's dtype.
        ids: the names of the texts, or their places from 0.
        texts: the texts themselves, where the file keeps them.
    """

    embeddings: Embeddings
    ids: Ids
    texts: Sequence[str] | None


class VectorFormat(Protocol):
    """How one file format takes vectors: one file of this folder each."""

    def write(self, rows: VectorRows) -> None:
        """Takes some texts' vectors; what it keeps of them in memory is bounded."""

    def finish(self) -> None:
        """Writes what is left. Not called after an error."""

    def close(self) -> None:
        """Lets go of everything, without writing."""
