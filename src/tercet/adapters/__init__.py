"""A model of Tercet where another framework expects one of its own kind (docs/adapters.md).

Each name needs its framework, which an extra of this package brings; it is read when it is first asked for.
"""

from __future__ import annotations

__all__ = [
    "HaystackDocumentEmbedder",
    "HaystackSparseDocumentEmbedder",
    "HaystackSparseTextEmbedder",
    "HaystackTextEmbedder",
    "LangChainEmbeddings",
    "LlamaIndexEmbedding",
    "MTEBEncoder",
]

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tercet.adapters.haystack_embedders import (
        HaystackDocumentEmbedder,
        HaystackSparseDocumentEmbedder,
        HaystackSparseTextEmbedder,
        HaystackTextEmbedder,
    )
    from tercet.adapters.langchain_embeddings import LangChainEmbeddings
    from tercet.adapters.llama_index_embedding import LlamaIndexEmbedding
    from tercet.adapters.mteb_encoder import MTEBEncoder

# Read when first asked for: importing this package alone imports neither a framework nor torch.
_HOMES = {
    "HaystackDocumentEmbedder": "tercet.adapters.haystack_embedders",
    "HaystackSparseDocumentEmbedder": "tercet.adapters.haystack_embedders",
    "HaystackSparseTextEmbedder": "tercet.adapters.haystack_embedders",
    "HaystackTextEmbedder": "tercet.adapters.haystack_embedders",
    "LangChainEmbeddings": "tercet.adapters.langchain_embeddings",
    "LlamaIndexEmbedding": "tercet.adapters.llama_index_embedding",
    "MTEBEncoder": "tercet.adapters.mteb_encoder",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'tercet.adapters' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
