"""Forms in which collections lie on disk: one file a form, which tells its folder and finds its parts.

@layout.register("beir")
class Beir:
    def splits(self, folder: Path) -> list[str]: ...    # none: the folder has another form
    def parts(self, folder: Path, split: str) -> Parts: ...
"""

__all__ = ["Layout", "judgements_of", "layout", "open_collection", "parts_of"]

from pathlib import Path
from typing import Protocol

from tercet.errors import InputError, nearest
from tercet.evaluation.collection import Collection, Parts, check
from tercet.evaluation.qrels import collect, read_judgements
from tercet.registry import Registry


class Layout(Protocol):
    """One form."""

    example: str  # what a folder or file of this form looks like, in few words

    def splits(self, path: Path) -> list[str]:
        """The splits that are there; none where `path` has another form."""

    def parts(self, path: Path, split: str) -> Parts:
        """Where one split's documents, queries and judgements are."""


layout: Registry[type[Layout]] = Registry("layout", __name__)


def open_collection(
    path: str | Path,
    *,
    layout_name: str | None = None,
    split: str | None = None,
    ignore_missing: bool = False,
) -> Collection:
    """The collection in a folder or file, found out and read through once.

    Args:
        path: the folder or file.
        layout_name: its form; None looks which one fits.
        split: "test" by default where there is one, else "dev", else the only one.
        ignore_missing: leave out judgements of what is not there, and count them.

    Raises:
        InputError: no such folder, form or split, or a line in it that cannot be used.
    """
    path = Path(path)
    name, split = _chosen(path, layout_name, split)
    parts = layout[name]().parts(path, split)
    return check(parts, name=str(path), layout=name, split=split, ignore_missing=ignore_missing)


def parts_of(path: str | Path, *, layout_name: str | None = None, split: str | None = None) -> Parts:
    """Where a collection's documents and queries are, found out as by `open_collection`; nothing is read."""
    path = Path(path)
    name, split = _chosen(path, layout_name, split)
    return layout[name]().parts(path, split)


def judgements_of(
    path: str | Path, *, layout_name: str | None = None, split: str | None = None
) -> tuple[dict[str, dict[str, int]], Path, str | None]:
    """(query -> document -> grade, the file, the split) of a file of judgements or of a collection's folder.

    The documents are not looked at: a run may be scored where they are not.
    """
    path = Path(path)
    if path.is_file() and layout_name is None:
        if split is not None:
            raise InputError(
                f"{path} is one file of judgements, which has no splits. Leave --split (split=...) out."
            )
        file, found = path, read_judgements(path)
    else:
        name, split = _chosen(path, layout_name, split)
        parts = layout[name]().parts(path, split)
        file, found = parts.files[-1], iter(parts.judgements())
    qrels = collect(found, lambda query: True, queries=str(path))
    return qrels.grades, file, split


def _chosen(path: Path, named: str | None, split: str | None) -> tuple[str, str]:
    """The layout and the split."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder. Give a data set that is on this machine.")
    name, splits = _form(path, named)
    if split is None:
        split = next((one for one in ("test", "dev") if one in splits), splits[0])
        if split not in ("test", "dev") and len(splits) > 1:
            raise InputError(
                f"{path} has the splits {', '.join(splits)}: choose one with --split (split=...)."
            )
    elif split not in splits:
        raise InputError(f"{path}: there is no split {split!r}. {nearest(split, splits)}")
    return name, split


def _form(path: Path, named: str | None) -> tuple[str, list[str]]:
    """The layout of a folder and its splits."""
    if named is not None:
        splits = layout[named]().splits(path)
        if not splits:
            raise InputError(
                f"{path} is not of the layout {named!r}, which looks so: {layout[named].example}."
            )
        return named, splits
    kinds = {layout[name]: name for name in layout.names()}  # one with two names once
    fitting = {name: splits for form, name in kinds.items() if (splits := form().splits(path))}
    if len(fitting) == 1:
        return next(iter(fitting.items()))
    if fitting:
        raise InputError(
            f"{path} can be read as {' and as '.join(fitting)}: say which with --layout (layout=...)."
        )
    forms = "; ".join(f"{name}: {layout[name].example}" for name in layout.names())
    raise InputError(f"{path} has none of the forms that are known. {forms}.")
