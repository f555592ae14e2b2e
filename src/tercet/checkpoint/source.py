"""Path or hub id -> local folder."""

from __future__ import annotations

__all__ = ["PACKAGED", "Source", "find"]

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.packaged import PACKAGED, packaged
from tercet.errors import SourceError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model is.

    Attributes:
        folder: the local folder.
        name: what the user called it.
        revision: hub commit, or None of a folder.
        remote: file in the folder that was not fetched -> its tensors, where only headers were asked for.
    """

    folder: Path
    name: str
    revision: str | None
    remote: Mapping[str, Mapping[str, TensorInfo]] = field(default_factory=dict)


def find(
    path_or_id: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    cache_folder: str | Path | None = None,
    headers_only: bool = False,
    confirm: Callable[[int], bool] | None = None,
) -> Source:
    """The local folder of a model, fetched from the hub if need be.

    Args:
        path_or_id: a folder, a hub id such as "BAAI/bge-m3", "minilm" for the packaged all-MiniLM-L6-v2,
            or "tercet-minilm" for it with Tercet's sparse and multi-vector heads.
        revision: branch, tag or commit on the hub.
        token: of the hub; None for the one that `hf auth login` saved.
        local_files_only: use what the hub's cache has, ask no network.
        cache_folder: the hub's cache; None for the hub's own default.
        headers_only: fetch configurations and the headers of weights alone, where the format allows.
        confirm: asked with the number of bytes before more than a gibibyte is fetched.

    Raises:
        SourceError: there is no such folder or model, or it cannot be fetched now.
    """
    if not isinstance(path_or_id, str | os.PathLike):
        raise SourceError(
            f"a model of type {type(path_or_id).__name__}: give an existing folder, or an id such as "
            "'BAAI/bge-m3'."
        )
    name = str(path_or_id)
    if name in PACKAGED and not Path(name).is_dir():
        return Source(packaged(name), name, None)
    folder = Path(path_or_id).expanduser()
    if name.strip() and folder.is_dir():
        return Source(folder, name, None)
    if folder.is_file():
        raise SourceError(f"{folder} is a file. Give the folder of the model that holds it.")
    if isinstance(path_or_id, Path) or not _HUB_ID.fullmatch(name):
        raise SourceError(
            f"There is no folder {folder.absolute() if name.strip() else repr(name)}, and {name!r} is not an "
            "id on the hub. Give an existing folder, or an id such as 'BAAI/bge-m3'."
        )
    from tercet.checkpoint.hub import fetch

    folder, commit, remote = fetch(
        name,
        revision=revision,
        token=token,
        local_files_only=local_files_only,
        cache_folder=None if cache_folder is None else Path(cache_folder),
        headers_only=headers_only,
        confirm=confirm,
    )
    return Source(folder, name, commit, remote)
