"""`tercet diff`: what differs between the weights of two models."""

from __future__ import annotations

__all__ = ["diff"]

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tercet.cli import options as shared
from tercet.cli.commands import command
from tercet.errors import InputError

if TYPE_CHECKING:
    from tercet.merging.difference import TensorDifference


@command.register("diff")
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A folder, a hub id, or minilm.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Lines to show; with --json all are.")] = 20,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.svg", help="Also draw it: kinds of tensors by layers, coloured by change."
        ),
    ] = None,
    token: shared.Token = None,
    offline: shared.Offline = False,
    yes: shared.Yes = False,
    as_json: shared.Json = False,
) -> None:
    """Compare the weights of two models tensor by tensor: change, cosine, dtype and shape.

    Names match without prefixes such as "bert."; what only one has comes first, then what changed most.

    Example:
    tercet diff minilm merged
    tercet diff minilm merged --picture diff.svg
    tercet diff minilm merged --json
    """
    from tercet.checkpoint.source import find
    from tercet.cli.progress import Progress
    from tercet.merging.difference import compare
    from tercet.merging.difference_picture import difference_picture
    from tercet.merging.folder import open_folder
    from tercet.storage.aside import Aside, writing

    if picture is not None and picture.suffix.lower() != ".svg":
        raise InputError(f"--picture {picture}: the picture is SVG. Name a file that ends in .svg.")
    models = [
        open_folder(
            find(name, token=token, local_files_only=offline, confirm=shared.confirmation(name, yes=yes))
        )
        for name in (first, second)
    ]
    with Progress("Comparing", measurable=True, unit="tensors") as bar:
        found = compare(models[0], models[1], lambda done, total: bar.advance(1, 0, done / max(total, 1)))
    if picture is not None:
        sink = Aside(picture)
        try:
            with writing(picture):
                sink.file.write(difference_picture(found, first, second).encode("utf-8"))
            sink.commit()
        finally:
            sink.discard()
    if as_json:
        print(json.dumps({"tensors": [one.to_json() for one in found]}, indent=2, ensure_ascii=False))
        return
    counts = Counter(one.kind for one in found)
    print(f"{len(found)} tensors: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    shown = [one for one in found if one.kind != "same"]
    for one in shown[:top]:
        print(_line(one))
    if len(shown) > top:
        print(f"... and {len(shown) - top} more (--top {len(shown)})")


def _line(one: TensorDifference) -> str:
    def both(pair: tuple[object, object]) -> str:
        return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]} -> {pair[1]}"

    if one.kind != "changed":
        there = [shape for shape in one.shapes if shape is not None]
        return f"{one.kind:>12}  {one.name}  {there[0] if len(there) == 1 else both(one.shapes)}"
    change = "from zero" if one.relative_change is None else f"{one.relative_change:.3e}"
    cosine = "" if one.cosine is None else f"cosine {one.cosine:.6f}"
    return f"{change:>12}  {one.name}  {cosine}  {both(one.dtypes)}"
