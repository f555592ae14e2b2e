"""Modules of late interaction, where the vectors of tokens are what comes out (Khattab & Zaharia 2020)."""

from __future__ import annotations

__all__ = ["LATE_MASK", "TOKENS", "check_late_widths", "late_mask", "multi_vector_mask"]

from collections.abc import Sequence
from pathlib import Path

from tercet.checkpoint.contents import ModuleSpec
from tercet.checkpoint.module_files import module_settings, nothing_left
from tercet.checkpoint.weights import Remote
from tercet.errors import CheckpointError

TOKENS = "token_embeddings"
LATE_MASK = "multi_vector_mask"


def multi_vector_mask(folder: Path, relative: str, remote: Remote | None) -> ModuleSpec:
    """Which tokens of a text have a vector: all, but words that are skipped, or some ids alone."""
    path, config = module_settings(folder, relative, required=False)
    words = config.pop("skiplist_words", None) or []
    tasks = config.pop("skiplist_tasks", None)
    tasks = ["document"] if tasks is None else [tasks] if isinstance(tasks, str) else tasks
    kept = config.pop("keep_only_token_ids", None)
    nothing_left(path, config, {"skiplist_words", "skiplist_tasks", "keep_only_token_ids"})
    for key, found, kind in (
        ("skiplist_words", words, str),
        ("skiplist_tasks", tasks, str),
        ("keep_only_token_ids", kept or [], int),
    ):
        if not isinstance(found, list) or any(type(one) is not kind for one in found):
            what = "words" if kind is str else "numbers"
            raise CheckpointError(
                f"{path}: {key!r} is {found!r}, expected a list of {what}. Correct the file."
            )
    return late_mask(relative, words, tasks, kept)


def late_mask(
    where: str, words: Sequence[str], tasks: Sequence[str] = ("document",), kept: Sequence[int] | None = None
) -> ModuleSpec:
    """The mask that skips these words in texts for these tasks, and keeps these ids alone, if any."""
    settings = {
        "skiplist_words": tuple(words),
        "skiplist_tasks": tuple(tasks),
        "keep_only_token_ids": tuple(kept) if kept else None,
    }
    return ModuleSpec(LATE_MASK, where, settings)


def check_late_widths(folder: Path, modules: Sequence[ModuleSpec], hidden: int) -> None:
    """Refuse modules that do not fit each other, before a weight is read."""
    width = hidden
    for module in modules:
        if module.kind != "dense":
            continue
        if module.config["in_features"] != width:
            raise CheckpointError(
                f"{folder / module.where}: in_features is {module.config['in_features']}, what comes before "
                f"it is {width} wide. The module belongs to another model; fetch or save the model again."
            )
        width = module.config["out_features"]
