"""`tercet cache`: what Tercet keeps on disk, and how to be rid of it."""

from __future__ import annotations

__all__ = ["cache"]

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tercet.cache import cache_folder
from tercet.cli import options as shared
from tercet.cli.commands import command
from tercet.errors import InputError, UnknownNameError, nearest

if TYPE_CHECKING:
    from tercet.kept import Kept

_ALL = "all"
# Kind -> what it is, and what it costs to be without.
_MEANING = {
    "probes": "what was measured of this machine; measured again in about two seconds",
    "weights": "weights packed for the native kernels, and hashes of weight files; packed again at a load",
    "models": "tercet-minilm, put together from its packages; links to them where that can be",
    "results": "reports of evaluations, parts and verdicts of audits; computed again when asked for",
}


@command.register("cache")
def cache(
    clear: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Remove what is kept: probes, weights, models, results, or all."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    as_json: shared.Json = False,
) -> None:
    """Show what Tercet keeps in the user's cache folder, with sizes; and remove it.

    Nothing there is needed: all of it is made again, which takes time. Models fetched from the hub lie in the
    hub's own cache, which `hf cache` shows.

    Example:
    tercet cache
    tercet cache --json
    tercet cache --clear results --yes
    """
    from tercet import kept as store

    found = store.kept()
    removed: list[Kept] = []
    if clear is not None:
        kinds = _kinds(clear)
        there = [one for one in found if one.kind in kinds and one.places]
        if there and not (yes or _agreed(there)):
            raise typer.Exit(1)
        removed = [store.clear(one.kind) for one in there]
        found = store.kept()
    if as_json:
        report = {"folder": str(cache_folder()), "kept": _plain(found), "removed": _plain(removed)}
        print(json.dumps(report, indent=2))
        return
    if clear is not None:
        print("\n".join(f"Removed {_counted(one)} of {one.kind}." for one in removed) or "Nothing was there.")
        return
    print(cache_folder())
    for one in found:
        print(f"  {one.kind:<8} {_counted(one):>20}   {_MEANING[one.kind]}")
    print("`tercet cache --clear KIND` removes what is kept of a kind; KIND may be all.")


def _kinds(wish: str) -> list[str]:
    """The kinds that were asked for."""
    if wish != _ALL and wish not in _MEANING:
        raise UnknownNameError(f"--clear: there is no kind {wish!r}. {nearest(wish, [*_MEANING, _ALL])}")
    return list(_MEANING) if wish == _ALL else [wish]


def _agreed(there: list[Kept]) -> bool:
    """Whether the person at the terminal agrees; an error where there is none."""
    what = ", ".join(f"{one.kind} ({_counted(one)})" for one in there)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InputError(f"this would remove {what} in {cache_folder()}. Say --yes to agree.")
    return typer.confirm(f"Remove {what} in {cache_folder()}?", default=False, err=True)


def _counted(one: Kept) -> str:
    from tercet.precision.footprint import show_bytes

    size = f"{one.bytes / 1e3:.0f} kB" if one.bytes < 1e6 else show_bytes(one.bytes)
    return f"{one.files} file{'' if one.files == 1 else 's'}, {size}"


def _plain(found: list[Kept]) -> dict[str, dict[str, object]]:
    return {
        one.kind: {"files": one.files, "bytes": one.bytes, "places": [str(place) for place in one.places]}
        for one in found
    }
