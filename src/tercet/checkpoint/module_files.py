"""What each module folder has: settings, none of which may be left over, and the tensors expected."""

from __future__ import annotations

__all__ = ["SENTENCE", "module_settings", "module_weights", "nothing_left", "only_about", "only_known"]

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.paths import inside, read_json_object
from tercet.checkpoint.weights import Remote, find_weights
from tercet.errors import CheckpointError, nearest

SENTENCE = "sentence_embedding"


def module_settings(
    folder: Path, relative: str, *, required: bool = True, name: str = "config.json"
) -> tuple[Path, dict[str, Any]]:
    """The path of a module's settings and what they say; nothing where there are none and none must be."""
    path = inside(folder, f"{relative}/{name}" if relative else name, said_by="modules.json")
    if not path.is_file():
        if required:
            raise CheckpointError(f"{path} is missing. Fetch or save the model again.")
        return path, {}
    return path, read_json_object(path)


def only_about(path: Path, config: dict[str, Any], about: str = SENTENCE) -> None:
    """Take the names of input and output away, which must be `about`: a text's vector, or those of tokens."""
    for key in ("module_input_name", "module_output_name"):
        if (found := config.pop(key, None)) not in (None, about):
            raise CheckpointError(
                f"{path}: {key!r} is not {about!r} but {found!r}, which is not supported in this place. "
                "Use sentence-transformers for this model."
            )


def nothing_left(path: Path, config: Mapping[str, Any], known: set[str]) -> None:
    """An error for a setting that nobody has taken."""
    if config:
        name = next(iter(config))
        raise CheckpointError(
            f"{path}: the setting {name!r} is not known, so it is not known what it changes. "
            f"{nearest(name, known)}"
        )


def only_known(
    path: Path,
    settings: Mapping[str, Any],
    known: Collection[str],
    only: Mapping[str, tuple[object, ...]],
    *,
    of: str = "",
) -> None:
    """An error for a setting of a Transformer that is not known, or has another value than those of `only`.

    `of` stands in the message before what is supported.
    """
    for key, value in settings.items():
        if key not in known:
            raise CheckpointError(
                f"{path}: the setting {key!r} is not known, so it is not known what it changes. "
                f"{nearest(key, known)} Remove it if it does not matter."
            )
        if key in only and value not in only[key]:
            raise CheckpointError(
                f"{path}: {key!r} is {value!r}; {of}only {only[key][0]!r} is supported. "
                "Use sentence-transformers for this model."
            )


def module_weights(
    folder: Path, relative: str, remote: Remote | None, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, TensorInfo]:
    """The module's tensors, which must be exactly these."""
    found = find_weights(folder, relative, remote).tensors
    for name in [*shapes, *found]:
        if name not in found:
            raise CheckpointError(
                f"{folder / relative}: the weights have no {name!r}, which config.json asks for. "
                "Fetch the model again."
            )
        if name not in shapes:
            raise CheckpointError(
                f"{found[name].file}: {name!r} has no use by what config.json says. Fetch the model again."
            )
        if found[name].shape != shapes[name]:
            raise CheckpointError(
                f"{found[name].file}: {name!r} is {found[name].shape}, config.json says {shapes[name]}. "
                "The file belongs to another model; fetch or save it again."
            )
    return found
