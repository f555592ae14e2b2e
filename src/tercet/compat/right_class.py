"""Which class of sentence-transformers a folder is for."""

from __future__ import annotations

__all__ = ["named"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.reranker_files import is_reranker
from tercet.checkpoint.source import find
from tercet.errors import CheckpointError, SourceError


def named(error: CheckpointError, asked: str, name: str | Path, hub: Mapping[str, Any]) -> CheckpointError:
    """The error that a class could not open a model, with the class that can.

    Args:
        error: as it was raised.
        asked: the class that raised it.
        name: the folder or hub id.
        hub: revision, token and the like, as `find` takes them.
    """
    if isinstance(error, SourceError):
        return error
    try:
        right = _class_of(name, hub)
    except CheckpointError:
        return error  # a damaged folder is no class's
    if right in (None, asked):
        return error
    return CheckpointError(f"{error} It is a {right}: open it with tercet.compat.{right}({str(name)!r}).")


def _class_of(name: str | Path, hub: Mapping[str, Any]) -> str | None:
    """By what the folder says; None of one that only makes a vector a token."""
    source = find(name, headers_only=True, **hub)
    if is_reranker(source):
        return "CrossEncoder"
    outputs = open_checkpoint(source).outputs
    if "dense" in outputs:
        return "SentenceTransformer"
    return "SparseEncoder" if "sparse" in outputs else None
