"""Modules of late interaction, where the vectors of tokens are what comes out (Khattab & Zaharia 2020)."""

from __future__ import annotations

__all__ = [
    "LATE_MASK",
    "TOKENS",
    "TOKEN_POOLING",
    "check_late_widths",
    "hierarchical_token_pooling",
    "late_mask",
    "multi_vector_mask",
]

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from tercet.checkpoint.contents import ModuleSpec
from tercet.checkpoint.module_files import module_settings, nothing_left
from tercet.checkpoint.paths import finite
from tercet.checkpoint.weights import Remote
from tercet.errors import CheckpointError

TOKENS = "token_embeddings"
LATE_MASK = "multi_vector_mask"
TOKEN_POOLING = "hierarchical_token_pooling"


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


def hierarchical_token_pooling(folder: Path, relative: str, remote: Remote | None) -> ModuleSpec:
    """Fewer vectors a text: those that say nearly the same become their mean (Clavié et al. 2024).

    A file without 'normalize_embeddings' is of a time when means were not made unit length, and are not.
    """
    path, config = module_settings(folder, relative)
    factor = config.pop("pool_factor", 1.0)
    protected = config.pop("num_protected_tokens", 1)
    normalize = config.pop("normalize_embeddings", False)
    tasks = config.pop("tasks", None)
    tasks = ["document"] if tasks is None else [tasks] if isinstance(tasks, str) else tasks
    known = {"pool_factor", "num_protected_tokens", "normalize_embeddings", "tasks"}
    nothing_left(path, config, known)
    if (rate := finite(factor)) is None or rate < 1:
        raise CheckpointError(f"{path}: 'pool_factor' is {factor!r}, expected a number from 1 on.")
    if type(protected) is not int or protected < 0:
        raise CheckpointError(
            f"{path}: 'num_protected_tokens' is {protected!r}, expected a number from 0 on. Correct it."
        )
    if type(normalize) is not bool:
        raise CheckpointError(f"{path}: 'normalize_embeddings' is {normalize!r}, expected true or false.")
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        raise CheckpointError(f"{path}: 'tasks' is {tasks!r}, expected a list of words. Correct the file.")
    settings = {
        "pool_factor": rate,
        "protected": protected,
        "normalize": normalize,
        "tasks": tuple(tasks),
    }
    return ModuleSpec(TOKEN_POOLING, relative, settings)


def check_late_widths(folder: Path, modules: Sequence[ModuleSpec], hidden: int) -> None:
    """Refuse modules that do not fit each other, before a weight is read."""
    width = hidden
    for before, module in pairwise(modules):
        if before.kind == TOKEN_POOLING:
            raise CheckpointError(
                f"{folder}: {module.where} stands behind {before.where}, which makes fewer vectors of those "
                "that are scored and comes last. Correct the order in modules.json, or use "
                "sentence-transformers for this model."
            )
    for module in modules:
        if module.kind != "dense":
            continue
        if module.config["in_features"] != width:
            raise CheckpointError(
                f"{folder / module.where}: in_features is {module.config['in_features']}, what comes before "
                f"it is {width} wide. The module belongs to another model; fetch or save the model again."
            )
        width = module.config["out_features"]
