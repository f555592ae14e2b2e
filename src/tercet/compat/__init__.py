"""Drop-in classes: code written for another library runs with one changed import line (docs/migration.md)."""

from __future__ import annotations

__all__ = [
    "BGEM3FlagModel",
    "CrossEncoder",
    "EmbedderModelClass",
    "FlagAutoModel",
    "FlagAutoReranker",
    "FlagModel",
    "FlagReranker",
    "RerankerModelClass",
    "SentenceTransformer",
    "SparseEncoder",
    "mix_models",
    "mix_models_with_data",
]

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tercet.compat.bge_m3 import BGEM3FlagModel
    from tercet.compat.cross_encoder import CrossEncoder
    from tercet.compat.flag_auto import EmbedderModelClass, FlagAutoModel
    from tercet.compat.flag_auto_reranker import FlagAutoReranker, RerankerModelClass
    from tercet.compat.flag_model import FlagModel
    from tercet.compat.flag_reranker import FlagReranker
    from tercet.compat.lm_cocktail import mix_models, mix_models_with_data
    from tercet.compat.sentence_transformer import SentenceTransformer
    from tercet.compat.sparse_encoder import SparseEncoder

# Read when first asked for: importing this package alone imports neither torch nor NumPy.
_HOMES = {
    "BGEM3FlagModel": "tercet.compat.bge_m3",
    "CrossEncoder": "tercet.compat.cross_encoder",
    "EmbedderModelClass": "tercet.compat.flag_auto",
    "FlagAutoModel": "tercet.compat.flag_auto",
    "FlagAutoReranker": "tercet.compat.flag_auto_reranker",
    "FlagModel": "tercet.compat.flag_model",
    "FlagReranker": "tercet.compat.flag_reranker",
    "RerankerModelClass": "tercet.compat.flag_auto_reranker",
    "SentenceTransformer": "tercet.compat.sentence_transformer",
    "SparseEncoder": "tercet.compat.sparse_encoder",
    "mix_models": "tercet.compat.lm_cocktail",
    "mix_models_with_data": "tercet.compat.lm_cocktail",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'tercet.compat' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
