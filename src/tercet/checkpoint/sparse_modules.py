"""Modules of sentence-transformers' SparseEncoder: their settings, checked, and their tensors."""

from __future__ import annotations

__all__ = ["SPARSE_MODULES", "SPLADE_WORDS", "read_sparse_auto_encoder", "read_splade_pooling", "splade"]

from collections.abc import Mapping
from pathlib import Path

from tercet.checkpoint.contents import SPARSE_MODULES, ModuleSpec
from tercet.checkpoint.module_files import module_settings, nothing_left
from tercet.checkpoint.weights import Remote, find_weights
from tercet.errors import CheckpointError, nearest

# A SparseAutoEncoder's matrix, in either file.
_CSR_MATRIX = ("encoder.weight", "decoder.linear.weight")
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


def read_sparse_auto_encoder(folder: Path, relative: str, remote: Remote | None) -> ModuleSpec:
    """A SparseAutoEncoder folder. Encoder and decoder share a matrix, which the file has under either name.

    Raises:
        CheckpointError: a setting cannot be, or the weights are not whole or have another shape.
    """
    path, config = module_settings(folder, relative)
    # What is left out has sentence-transformers' default.
    sizes = {
        "input_dim": config.pop("input_dim", None),
        "hidden_dim": config.pop("hidden_dim", 512),
        "k": config.pop("k", 8),
    }
    normalize = config.pop("normalize", False)
    for key in ("k_aux", "dead_threshold"):  # training's
        config.pop(key, None)
    nothing_left(path, config, {*sizes, "normalize", "k_aux", "dead_threshold"})
    for key, value in sizes.items():
        if type(value) is not int or value < 1:
            raise CheckpointError(f"{path}: {key!r} is {value!r}, expected a positive number. Correct it.")
    if type(normalize) is not bool:
        raise CheckpointError(f"{path}: 'normalize' is {normalize!r}, expected true or false. Correct it.")
    width, features = sizes["input_dim"], sizes["hidden_dim"]
    found = find_weights(folder, relative, remote).tensors
    matrix = next((name for name in _CSR_MATRIX if name in found), _CSR_MATRIX[0])
    shapes = {matrix: (features, width), "latent_bias": (features,), "pre_bias": (width,)}
    for name, shape in shapes.items():
        info = found.get(name)
        if info is None or info.shape != shape or not info.is_float:
            there = "is missing" if info is None else f"is {info.shape} in {info.dtype}"
            raise CheckpointError(
                f"{folder / relative}: {name!r} {there}, config.json makes it {shape} of floating-point "
                "numbers. The file belongs to another model; fetch or save it again."
            )
    for name in found:
        if name not in (*shapes, *_CSR_MATRIX, "stats_last_nonzero"):
            raise CheckpointError(
                f"{found[name].file}: {name!r} has no use in a SparseAutoEncoder. Fetch the model again."
            )
    settings = {**sizes, "normalize": normalize}
    return ModuleSpec("sparse_auto_encoder", relative, settings, {name: found[name] for name in shapes})
