"""Options that several verbs share, and what their values mean."""

from __future__ import annotations

__all__ = [
    "BatchTokens",
    "Device",
    "Json",
    "MaxLength",
    "Model",
    "Offline",
    "Outputs",
    "PlanFile",
    "PrecisionWish",
    "Revision",
    "Token",
    "Tolerance",
    "Yes",
    "confirmation",
    "parse_names",
    "parse_outputs",
    "parse_weights",
    "refuse_with_plan",
]

import sys
from collections.abc import Callable
from typing import Annotated, TypeAlias

import typer

from tercet.errors import InputError, UnknownNameError, nearest

OUTPUTS = ("dense", "sparse", "multivector")

_MODEL, _RUN = "Model", "Precision and speed"

Model: TypeAlias = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="FOLDER|ID|minilm",
        help="A folder, a hub id, or minilm, which comes in a package.",
        rich_help_panel=_MODEL,
    ),
]
Revision: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="COMMIT", help="Branch, tag or commit on the hub.", rich_help_panel=_MODEL),
]
Token: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Of the hub; better: `hf auth login`, or HF_TOKEN.", rich_help_panel=_MODEL),
]
Offline: TypeAlias = Annotated[
    bool, typer.Option("--offline", help="Use what is already here, ask no network.", rich_help_panel=_MODEL)
]
Yes: TypeAlias = Annotated[
    bool, typer.Option("--yes", "-y", help="Fetch gigabytes without asking.", rich_help_panel=_MODEL)
]
Outputs: TypeAlias = Annotated[
    str, typer.Option(metavar="LIST", help="Of dense, sparse, multivector, with commas between.")
]
PrecisionWish: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="DTYPE",
        help="auto (measured and planned), checkpoint (as stored), a dtype such as float16, or int8, "
        "int8-fast, float8, tf32.",
        rich_help_panel=_RUN,
    ),
]
Tolerance: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="LOSS",
        help="Largest mean 1 - cosine to float32 that is acceptable, such as 5e-4 for int8; auto alone takes "
        "only what has no visible loss.",
        rich_help_panel=_RUN,
    ),
]
Device: TypeAlias = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps; the best one by default.", rich_help_panel=_RUN)
]
BatchTokens: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Most tokens in one forward.", rich_help_panel=_RUN)
]
PlanFile: TypeAlias = Annotated[
    str | None,
    typer.Option("--plan", metavar="FILE", help="Run by a saved plan, and make none.", rich_help_panel=_RUN),
]
MaxLength: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Most tokens of a text; the model's own limit by default.")
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on the standard output.")
]


def parse_names(text: str) -> list[str]:
    """The names in a list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_outputs(text: str) -> tuple[str, ...]:
    """The outputs in a list with commas, in the order of `OUTPUTS`, each once."""
    names = parse_names(text)
    for name in names:
        if name not in OUTPUTS:
            raise UnknownNameError(f"--outputs: there is no output {name!r}. {nearest(name, OUTPUTS)}")
    if not names:
        raise InputError("--outputs is empty: name at least one of dense, sparse, multivector.")
    return tuple(name for name in OUTPUTS if name in names)


def parse_weights(text: str) -> tuple[float, float, float]:
    """Three numbers in a list with commas: the weights of dense, sparse and multivector."""
    try:
        dense, sparse, multivector = (float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"--weights is {text!r}: give three numbers, of dense, sparse and multivector: 0.4,0.2,0.4"
        ) from error
    return dense, sparse, multivector


def refuse_with_plan(plan: str | None, **options: object) -> None:
    """An InputError for an option that was given although a saved plan decides it."""
    for name, value in options.items():
        if plan is not None and value is not None:
            raise InputError(
                f"--{name.replace('_', '-')} and --plan were both given, and {plan} decides that already. "
                "Leave one of them out, or edit the plan."
            )


def confirmation(model: str, *, yes: bool) -> Callable[[int], bool]:
    """What asks before gigabytes are fetched: the person at the terminal, unless `yes` was said."""

    def confirm(size: int) -> bool:
        if yes:
            return True
        from tercet.precision.footprint import show_bytes

        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise InputError(
                f"{model} is not here yet; fetching it takes {show_bytes(size)}. Say --yes to agree, or give "
                "a folder."
            )
        return typer.confirm(f"{model} is not here yet. Fetch {show_bytes(size)}?", default=True, err=True)

    return confirm
