"""(query, document) -> score: load a cross-encoder at a planned precision, score pairs and rank with it."""

from __future__ import annotations

__all__ = ["Ranked", "Reranker", "load_reranker"]

from tercet.reranker.loading import load_reranker
from tercet.reranker.reranker import Ranked, Reranker
