"""The folder of a report: checked before long work, written at the end of it."""

from __future__ import annotations

__all__ = ["HTML_NAME", "JSON_NAME", "check_report", "write_report"]

import json
import math
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tercet.errors import InputError, OutputError
from tercet.evaluation.audit_report.canvas import require_matplotlib
from tercet.evaluation.audit_report.page import html_page
from tercet.evaluation.audit_result import AuditResult
from tercet.storage.aside import Aside, writing

HTML_NAME, JSON_NAME = "index.html", "audit.json"
# What our own JSON begins with; nothing further is read of a file that may be anyone's.
_OURS, _FIRST_BYTES = b'"audit_version"', 256


def check_report(folder: Path, *, overwrite: bool = False) -> None:
    """Nothing, where a report can be written there; asked before an audit begins.

    Args:
        folder: where it will go; it and its parents need not be there.
        overwrite: whether a folder with other files in it is taken as well; those that have other names stay.

    Raises:
        MissingExtraError: matplotlib is not installed.
        InputError: the folder is a file, or has files of someone else in it.
        OutputError: it cannot be written to.
    """
    require_matplotlib()
    folder = Path(folder)
    with writing(folder):
        if folder.is_dir():
            if not overwrite and any(folder.iterdir()) and not _is_ours(folder):
                raise InputError(
                    f"{folder}: has files in it that are no report of an audit. "
                    "Name a new or empty folder, or move them away."
                )
        elif os.path.lexists(folder):
            raise InputError(
                f"{folder}: is no folder. A report is a folder of two files; name another place."
            )
        present = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not present.is_dir():
        raise InputError(
            f"{folder}: {present} is a file, so no folder can be made there. Name another place."
        )
    if not os.access(present, os.W_OK | os.X_OK):
        raise OutputError(
            f"{folder}: {present} may not be written to. Change its permissions, or write elsewhere."
        )


def write_report(result: AuditResult, folder: Path, *, overwrite: bool = False) -> Path:
    """The page's path, with the JSON beside it; an earlier report in the folder is replaced.

    Args:
        result: what an audit found.
        folder: where it goes; made with its parents if need be.
        overwrite: as in `check_report`.

    Raises:
        MissingExtraError, InputError, OutputError: as `check_report`; nothing is half-written.
    """
    folder = Path(folder)
    check_report(folder, overwrite=overwrite)
    page = html_page(result, datetime.now(UTC), JSON_NAME)
    data = json.dumps(_finite(result.to_json()), indent=1, allow_nan=False)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    files: list[Aside] = []
    try:
        # The JSON comes first: it is what tells that the folder is ours.
        for name, text in ((JSON_NAME, data + "\n"), (HTML_NAME, page)):
            files.append(Aside(folder / name))
            with writing(folder / name):
                files[-1].file.write(text.encode("utf-8"))
        for file in files:
            file.commit()
    finally:
        for file in files:
            file.discard()
    return folder / HTML_NAME


def _is_ours(folder: Path) -> bool:
    """Whether the folder has a report of an audit."""
    found = folder / JSON_NAME
    if not found.is_file():
        return False
    with found.open("rb") as file:
        return _OURS in file.read(_FIRST_BYTES)


def _finite(value: Any) -> Any:
    """The same without infinities and NaN, which JSON does not have: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
