"""SparseStaticEmbedding of sentence-transformers: a weight for each token id, and no encoder before it."""

from __future__ import annotations

__all__ = ["TOKEN_WEIGHTS", "read_token_weights", "token_weights"]

from pathlib import Path

from tercet.checkpoint.body import UNLIMITED, Body
from tercet.checkpoint.contents import ModuleSpec
from tercet.checkpoint.listed import listed_weights
from tercet.checkpoint.module_files import module_settings, nothing_left
from tercet.checkpoint.paths import inside, read_json_object
from tercet.checkpoint.weights import Remote, Weights, find_weights
from tercet.errors import CheckpointError

# The kind of module.
TOKEN_WEIGHTS = "token_weights"


def token_weights(folder: Path, relative: str, remote: Remote | None) -> tuple[ModuleSpec, list[str]]:
    """The module that gives a text the weights of its tokens, and notes about its file.

    Raises:
        CheckpointError: a setting is not known, or the weights are missing or none of a vocabulary.
    """
    weights, notes = _weights(folder, relative, remote)
    where = f"{relative or 'the root'} (SparseStaticEmbedding)"
    return ModuleSpec(TOKEN_WEIGHTS, where, tensors={"weight": weights.tensors["weight"]}), notes


def read_token_weights(folder: Path, relative: str, remote: Remote | None) -> Body:
    """What stands before that module: token ids alone, each of which is there or not.

    A text is cut at the length that the tokenizer's settings name, as in sentence-transformers.
    """
    weights, _ = _weights(folder, relative, remote)
    settings = _beside(folder, relative, "tokenizer_config.json")
    return Body(
        architecture="token-presence",
        config={
            "hidden_size": 1,
            "num_hidden_layers": 0,
            "num_attention_heads": 0,
            "intermediate_size": 0,
            "vocab_size": weights.tensors["weight"].shape[0],
        },
        positions=UNLIMITED,
        weights=weights,
        tensors={},
        ignored={},
        tokenizer_file=_tokenizer(folder, relative),
        tokenizer_config=read_json_object(settings) if settings.is_file() else {},
        special_tokens=False,
    )


def _weights(folder: Path, relative: str, remote: Remote | None) -> tuple[Weights, list[str]]:
    """The file of the weights, with its one tensor, and notes about it."""
    path, config = module_settings(folder, relative, required=False)
    config.pop("frozen", None)  # training's
    listed = config.pop("path", None)
    nothing_left(path, config, {"frozen", "path"})
    if listed is not None:
        return _listed(folder, relative, path, listed)
    found = find_weights(folder, relative, remote)
    info = found.tensors.get("weight")
    if info is None or len(found.tensors) > 1 or len(info.shape) != 1 or 0 in info.shape or not info.is_float:
        shown = ", ".join(f"{name!r} {one.shape} in {one.dtype}" for name, one in found.tensors.items())
        raise CheckpointError(
            f"{found.files[0]} holds {shown or 'nothing'}; a SparseStaticEmbedding has 'weight' alone, a "
            "floating-point number for each token. Fetch the model again."
        )
    return found, []


def _listed(folder: Path, relative: str, path: Path, listed: object) -> tuple[Weights, list[str]]:
    """The weights of a JSON file, beside the settings that name it or at the root."""
    if not isinstance(listed, str) or not listed.endswith(".json"):
        raise CheckpointError(
            f"{path}: 'path' is {listed!r}, expected the name of a JSON file, such as 'idf.json'. Correct it."
        )
    file = _beside(folder, relative, listed)
    if not file.is_file():
        file = inside(folder, listed, said_by=path.name)
    if not file.is_file():
        raise CheckpointError(
            f"{path} names {listed!r}, which is neither beside it nor in {folder}. Fetch the file, or copy "
            "it there."
        )
    info, unknown = listed_weights(file, _tokenizer(folder, relative))
    notes = []
    if unknown:
        notes.append(
            f"{file.name} has weights for {len(unknown):,} tokens that the vocabulary does not have "
            f"({', '.join(map(repr, unknown[:3]))}): they are left out."
        )
    return Weights("safetensors", (file,), {"weight": info}), notes


def _tokenizer(folder: Path, relative: str) -> Path:
    path = _beside(folder, relative, "tokenizer.json")
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing; a SparseStaticEmbedding takes its token ids from it. Fetch the model again, "
            "or copy the tokenizer that it was trained with there."
        )
    return path


def _beside(folder: Path, relative: str, name: str) -> Path:
    return inside(folder, f"{relative}/{name}" if relative else name, said_by="modules.json")
