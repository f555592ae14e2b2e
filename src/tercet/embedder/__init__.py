"""Text -> Embeddings: load a checkpoint at a planned precision, and encode with it."""

from __future__ import annotations

__all__ = ["Embedder", "load"]

from tercet.embedder.embedder import Embedder
from tercet.embedder.loading import load
