"""`tercet doctor`: what this machine can do, measured."""

from __future__ import annotations

__all__ = ["doctor"]

import json
import platform
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tercet.cli import options as shared
from tercet.cli.commands import command

if TYPE_CHECKING:
    from tercet.precision.hardware import Capability, Measured


@command.register("doctor")
def doctor(
    device: shared.Device = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Measure again in any case.")] = False,
    as_json: shared.Json = False,
) -> None:
    """Measure which number formats run on this machine, how fast and how exactly, and what `auto` would
    choose.

    Takes about two seconds on the first run. What was measured is remembered; for an hour only where other
    processes disturbed it, and then `auto` decides nothing by it.

    Example:
    tercet doctor
    tercet doctor --device cpu --json
    """
    from tercet.planner import capability, kernels_here, remembered_in
    from tercet.precision.choice import choose_scheme
    from tercet.precision.dtype import Wish

    found = capability(device, refresh=refresh)
    choice = choose_scheme(found, Wish("auto"))
    remembered = remembered_in(found.device)
    place = str(remembered) if remembered.is_file() else None
    if as_json:
        auto = {"scheme": choice.scheme.to_json(), "reasons": list(choice.reasons)}
        report = {
            "versions": _versions(),
            "capability": found.to_json(),
            "kernels": kernels_here(),
            "auto": auto,
            "remembered": place,
            "packed_weights": _packed_weights(),
        }
        print(json.dumps(report, indent=2))
        return
    print("\n".join(_page(found, kernels_here(), choice.reasons, place)))


def _packed_weights() -> dict[str, Any]:
    """The folder of packed weights, how many files it has and how many bytes they take."""
    from tercet.engines.weight_cache import folder

    sizes = [path.stat().st_size for path in folder().glob("*.packed")]
    return {"folder": str(folder()), "files": len(sizes), "bytes": sum(sizes)}


def _page(found: Capability, kernels: str, reasons: tuple[str, ...], remembered: str | None) -> list[str]:
    """The report for people."""
    from tercet.precision.footprint import show_bytes

    threads = f", {found.threads} threads" if found.device == "cpu" else ""
    free, total = show_bytes(found.free_bytes), show_bytes(found.total_bytes)
    lines = [
        ", ".join(f"{name} {version}" for name, version in _versions().items()),
        f"{found.device}: {found.name}{threads}",
        f"  memory    {free} free of {total} (by {found.memory_limit})",
    ]
    features = " ".join(found.features) or "none known"
    lines += wrap(features, 100, initial_indent="  features  ", subsequent_indent=" " * 12)
    if found.device == "cpu":
        lines += wrap(kernels, 100, initial_indent="  kernels   ", subsequent_indent=" " * 12)
    rows: list[tuple[str, ...]] = [
        ("format (engine)", "runs", "speed", "max error", "native", "drift: mean, worst")
    ]
    rows += [_row(str(scheme), measured) for scheme, measured in found.schemes.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines.append("")
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append(("  " + "   ".join(cells)).rstrip())
    lines.append("  speed: times float32's, on packed matrix products; max error: of these against float64;")
    lines.append("  drift: 1 - cosine of dense vectors to float32's, on real texts, as stated by the engine")
    lines.append("")
    failing = [(scheme, row.failure) for scheme, row in found.schemes.items() if not row.runs]
    lines += [*(f"  {scheme}: {failure}" for scheme, failure in failing), ""] if failing else []
    for reason in reasons:
        lines += wrap(reason, 100, subsequent_indent="  ")
    lines.append("")
    if not found.quiet:
        lines.append("Other processes disturbed the measurement. It is remembered for an hour at most;")
        lines.append("`tercet doctor --refresh` measures again when the machine is quiet.")
    if remembered is not None:
        lines.append(f"Remembered in {remembered}; --refresh measures again.")
    else:
        lines.append("Not remembered: the cache folder cannot be written.")
    packed = _packed_weights()
    if packed["files"]:
        size = show_bytes(packed["bytes"])
        lines.append(f"Packed weights: {packed['files']} files, {size}, in {packed['folder']}")
    return lines


def _row(name: str, measured: Measured) -> tuple[str, ...]:
    """One scheme's line."""
    drift = "not stated"
    if measured.drift is not None:
        drift = f"{measured.drift.mean:.1e}, {measured.drift.worst:.1e}" if measured.drift.worst else "none"
    if measured.relative_seconds is None:
        return name, "no" if not measured.runs else "yes", "-", "-", "-", drift
    native = {True: "yes", False: "no, emulated", None: "cannot tell"}[measured.native]
    error = "-" if measured.max_error is None else f"{measured.max_error:.1e}"
    return name, "yes", f"{1 / measured.relative_seconds:.2f}x", error, native, drift


def _versions() -> dict[str, Any]:
    import torch

    from tercet import __version__

    return {"tercet": __version__, "torch": torch.__version__, "Python": platform.python_version()}
