"""Modules over token vectors, in front of the pooling: settings in old and new words, and weights."""

from __future__ import annotations

__all__ = [
    "LAYER_POOLING",
    "TOKEN_MODULES",
    "cnn",
    "lstm",
    "settled_layer_pooling",
    "weighted_layer_pooling",
    "word_weights",
]

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tercet.checkpoint.contents import ModuleSpec
from tercet.checkpoint.module_files import module_settings, module_weights, nothing_left
from tercet.checkpoint.paths import finite
from tercet.checkpoint.weights import Remote
from tercet.errors import CheckpointError

LAYER_POOLING = "weighted_layer_pooling"
# Kinds that change the vectors of tokens, and so must stand in front of the pooling.
TOKEN_MODULES = ("cnn", "lstm", "word_weights", LAYER_POOLING)
# Beyond any model; a number made up in a file makes no list of that length.
_MOST = 10_000


def weighted_layer_pooling(folder: Path, relative: str, remote: Remote | None) -> ModuleSpec:
    """The mean of hidden states from `layer_start` on; which states there are is for the encoder to say."""
    path, config = module_settings(folder, relative)
    width = _width(path, config, "embedding_dimension", "word_embedding_dimension")
    layers = _size(path, "num_hidden_layers", config.pop("num_hidden_layers", 12))
    first = config.pop("layer_start", 4)
    nothing_left(path, config, {"embedding_dimension", "num_hidden_layers", "layer_start"})
    if type(first) is not int or not 0 <= first <= layers:
        raise CheckpointError(
            f"{path}: 'layer_start' is {first!r}, expected a number from 0 to {layers}. Correct the file."
        )
    settings = {"width": width, "num_hidden_layers": layers, "layer_start": first}
    tensors = module_weights(folder, relative, remote, {"layer_weights": (layers + 1 - first,)})
    return ModuleSpec(LAYER_POOLING, relative, settings, tensors)


def settled_layer_pooling(
    folder: Path, modules: Sequence[ModuleSpec], *, layers: int, hidden_states: bool
) -> tuple[tuple[ModuleSpec, ...], list[str]]:
    """The modules, of which layer poolings say whether they are "active", and a note on each that is not.

    Args:
        folder: of the checkpoint.
        modules: all that stands behind the encoder.
        layers: of the encoder.
        hidden_states: whether the encoder's settings ask for the states of all layers; where they do not,
            sentence-transformers takes the last one and says nothing.

    Raises:
        CheckpointError: it is for another number of layers, or does not follow the encoder at once.
    """
    kept, notes = [], []
    for place, module in enumerate(modules):
        if module.kind != LAYER_POOLING:
            kept.append(module)
        elif not hidden_states:
            kept.append(replace(module, config={**module.config, "active": False}))
            notes.append(
                f"{module.where} (WeightedLayerPooling) does nothing, as in sentence-transformers, since "
                "config.json has no 'output_hidden_states': the last layer's vectors are taken."
            )
        elif place:
            raise CheckpointError(
                f"{folder / module.where}: a WeightedLayerPooling takes the encoder's layers, so that what "
                f"{modules[place - 1].where} does would be lost. Move it up in modules.json."
            )
        elif module.config["num_hidden_layers"] != layers:
            raise CheckpointError(
                f"{folder / module.where}: num_hidden_layers is {module.config['num_hidden_layers']}, the "
                f"encoder has {layers}. The module belongs to another model; fetch or save the model again."
            )
        else:
            kept.append(replace(module, config={**module.config, "active": True}))
    return tuple(kept), notes


def lstm(folder: Path, relative: str, remote: Remote | None) -> ModuleSpec:
    """A recurrent net."""
    path, config = module_settings(folder, relative, name="lstm_config.json")
    width = _width(path, config, "embedding_dimension", "word_embedding_dimension")
    hidden = _size(path, "hidden_dim", config.pop("hidden_dim", None), most=1 << 20)
    layers = _size(path, "num_layers", config.pop("num_layers", 1))
    both = config.pop("bidirectional", True)
    config.pop("dropout", None)
    nothing_left(
        path, config, {"embedding_dimension", "hidden_dim", "num_layers", "bidirectional", "dropout"}
    )
    if type(both) is not bool:
        raise CheckpointError(f"{path}: 'bidirectional' is {both!r}, expected true or false.")
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        reaches = width if layer == 0 else hidden * (1 + both)
        for way in ("", "_reverse")[: 1 + both]:
            shapes[f"encoder.weight_ih_l{layer}{way}"] = (4 * hidden, reaches)
            shapes[f"encoder.weight_hh_l{layer}{way}"] = (4 * hidden, hidden)
            shapes[f"encoder.bias_ih_l{layer}{way}"] = (4 * hidden,)
            shapes[f"encoder.bias_hh_l{layer}{way}"] = (4 * hidden,)
    settings = {
        "width": width,
        "hidden_dim": hidden,
        "num_layers": layers,
        "bidirectional": both,
        "out_width": hidden * (1 + both),
    }
    return ModuleSpec("lstm", relative, settings, module_weights(folder, relative, remote, shapes))


def cnn(folder: Path, relative: str, remote: Remote | None) -> ModuleSpec:
    """Convolutions of several widths side by side."""
    path, config = module_settings(folder, relative, name="cnn_config.json")
    width = _width(path, config, "in_embedding_dimension", "in_word_embedding_dimension")
    out = _size(path, "out_channels", config.pop("out_channels", 256), most=1 << 20)
    kernels = _sizes(path, "kernel_sizes", config.pop("kernel_sizes", [1, 3, 5]))
    strides = config.pop("stride_sizes", None)
    strides = [1] * len(kernels) if strides is None else _sizes(path, "stride_sizes", strides)
    nothing_left(path, config, {"in_embedding_dimension", "out_channels", "kernel_sizes", "stride_sizes"})
    if len(strides) != len(kernels) or len(set(strides)) > 1 or len({size % 2 for size in kernels}) > 1:
        raise CheckpointError(
            f"{path}: kernel_sizes {kernels} with stride_sizes {strides} give different numbers of rows, "
            "which cannot stand side by side. Take one stride, and kernels that are all odd or all even."
        )
    shapes: dict[str, tuple[int, ...]] = {}
    for number, size in enumerate(kernels):
        shapes[f"convs.{number}.weight"] = (out, width, size)
        shapes[f"convs.{number}.bias"] = (out,)
    settings = {
        "width": width,
        "out_channels": out,
        "kernel_sizes": tuple(kernels),
        "stride": strides[0],
        "out_width": out * len(kernels),
    }
    return ModuleSpec("cnn", relative, settings, module_weights(folder, relative, remote, shapes))


def word_weights(folder: Path, relative: str, remote: Remote | None) -> ModuleSpec:
    """Weights by token id; settings rule, as in sentence-transformers, not their copy among the weights."""
    path, config = module_settings(folder, relative)
    words, weights = config.pop("vocab", None), config.pop("word_weights", None)
    unknown = config.pop("unknown_word_weight", 1)
    nothing_left(path, config, {"vocab", "word_weights", "unknown_word_weight"})
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise CheckpointError(f"{path}: 'vocab' is no list of words. Fetch or save the model again.")
    if not isinstance(weights, dict) or any(finite(value) is None for value in [*weights.values(), unknown]):
        raise CheckpointError(
            f"{path}: 'word_weights' and 'unknown_word_weight' must be finite numbers, by word and for all "
            "others. Fetch or save the model again."
        )
    found = tuple(float(weights.get(word, weights.get(word.lower(), unknown))) for word in words)
    return ModuleSpec("word_weights", relative, {"weights": found, "unknown": float(unknown)})


def _width(path: Path, config: dict[str, Any], new: str, old: str) -> int:
    """The size of the vectors that come in, under its old or its new name."""
    before = config.pop(old, None)
    return _size(path, new, config.pop(new, before), most=1 << 20)


def _size(path: Path, key: str, value: object, *, most: int = _MOST) -> int:
    if type(value) is not int or not 0 < value <= most:
        raise CheckpointError(f"{path}: {key!r} is {value!r}, expected a number from 1 to {most:,}.")
    return value


def _sizes(path: Path, key: str, values: object) -> list[int]:
    if not isinstance(values, list) or not 0 < len(values) <= _MOST:
        raise CheckpointError(f"{path}: {key!r} is {values!r}, expected a list of numbers.")
    return [_size(path, key, value) for value in values]
