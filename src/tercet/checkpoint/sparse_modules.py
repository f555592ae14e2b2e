"""Modules of sentence-transformers' SparseEncoder: their settings, checked, and their tensors."""

from __future__ import annotations

__all__ = ["SPARSE_MODULES", "SPLADE_WORDS", "read_splade_pooling", "splade"]

from collections.abc import Mapping
from pathlib import Path

from tercet.checkpoint.contents import ModuleSpec
from tercet.checkpoint.module_files import module_settings, nothing_left
from tercet.checkpoint.weights import Remote
from tercet.errors import CheckpointError, nearest

# Kinds of modules that end a stack with sparse vectors.
SPARSE_MODULES = ("splade_pooling",)
# load(pooling=...) -> how the numbers of a text's tokens become one vector.
SPLADE_WORDS: Mapping[str, str] = {"splade": "max", "splade-sum": "sum"}


def splade(strategy: str, where: str, activation: str = "relu", chunk_size: int | None = None) -> ModuleSpec:
    """SPLADE's pooling, still without the masked-language head whose numbers it pools."""
    settings = {"pooling_strategy": strategy, "activation_function": activation, "chunk_size": chunk_size}
    return ModuleSpec("splade_pooling", where, settings)


def read_splade_pooling(folder: Path, relative: str, remote: Remote | None) -> ModuleSpec:
    """A SpladePooling folder, which has no weights."""
    path, config = module_settings(folder, relative)
    for key in ("embedding_dimension", "word_embedding_dimension"):
        config.pop(key, None)
    strategy, activation = config.pop("pooling_strategy", "max"), config.pop("activation_function", "relu")
    chunk_size = config.pop("chunk_size", None)
    nothing_left(path, config, {"pooling_strategy", "activation_function", "chunk_size"})
    for key, value, known in (
        ("pooling_strategy", strategy, ("max", "sum")),
        ("activation_function", activation, ("relu", "log1p_relu")),
    ):
        if value not in known:
            raise CheckpointError(f"{path}: {key} is {value!r}. {nearest(str(value), known)}")
    if chunk_size is not None and type(chunk_size) is not int:
        raise CheckpointError(f"{path}: 'chunk_size' is {chunk_size!r}, expected a number of tokens or null.")
    # Zero and less mean a whole text to sentence-transformers, as null does.
    return splade(strategy, relative, activation, chunk_size if chunk_size and chunk_size > 0 else None)
