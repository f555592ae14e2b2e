"""The curves of a training run: losses by step, and nDCG@10 on the held-out pairs by head.

python examples/draw_tri_vector.py build/tri_vector/training.json docs/tri_vector.svg    # and -dark.svg
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tercet.errors import MissingExtraError
from tercet.extras import require

THEMES = {
    "": {"paper": "#ffffff", "ink": "#1f2328", "faint": "#656d76", "grid": "#d1d9e0"},
    "-dark": {"paper": "#0d1117", "ink": "#e6edf3", "faint": "#8b949e", "grid": "#30363d"},
}
COLOURS = {
    "dense": "#8b949e",
    "sparse": "#d97706",
    "multivector": "#1f8fff",
    "hybrid": "#2da44e",
    "together": "#2da44e",
}
# Steps that one point of a loss is the mean of.
WINDOW = 20


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("training", type=Path, help="training.json, which train_tri_vector.py writes")
    parser.add_argument("picture", type=Path, help="an .svg file")
    options = parser.parse_args(argv)
    log = json.loads(options.training.read_text(encoding="utf-8"))
    try:
        for suffix, theme in THEMES.items():
            picture = options.picture.with_stem(options.picture.stem + suffix)
            draw(log, theme).savefig(picture, bbox_inches="tight", metadata={"Date": None})
    except MissingExtraError as error:
        print(f"draw_tri_vector: {error}", file=sys.stderr)
        return 2
    return 0


def draw(log: Mapping[str, Any], theme: Mapping[str, str]) -> Any:
    """Two panels: what is learned from, and what for."""
    require("matplotlib", extra="report", purpose="Drawing the curves").use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 9, "font.family": "DejaVu Sans", "svg.hashsalt": "tercet"})
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 3.6), facecolor=theme["paper"])
    figure.subplots_adjust(wspace=0.45)
    for name, values in log["losses"].items():
        points = range(WINDOW, len(values) + 1, WINDOW)
        means = [sum(values[end - WINDOW : end]) / WINDOW for end in points]
        line(left, points, means, name, "--" if "distilled" in name else "-")
    for name, values in log["ndcg"].items():
        line(right, log["measured_at"], values, name, "-")
    settings = log["settings"]
    for axes, title in (
        (left, f"Loss, mean of {WINDOW} steps"),
        (right, f"nDCG@10, {settings['asked']:,} held-out queries, {settings['held_out']:,} passages"),
    ):
        names(axes, theme)
        axes.set_title(title, loc="left", color=theme["ink"], size=10, weight="bold")
        axes.set_xlabel("step", color=theme["faint"])
        axes.set_facecolor(theme["paper"])
        axes.tick_params(colors=theme["faint"], length=0)
        axes.grid(axis="y", color=theme["grid"], linewidth=0.6)
        for side in axes.spines.values():
            side.set_visible(False)
    return figure


def line(axes: Any, x: Sequence[int], y: Sequence[float], name: str, style: str) -> None:
    """A curve under its name; a run too short for a point has none."""
    if not y:
        return
    axes.plot(x, y, style, color=COLOURS[name.partition(",")[0]], linewidth=1.6, label=name)


def names(axes: Any, theme: Mapping[str, str]) -> None:
    """Each curve's name behind its end, none over another."""
    low, high = axes.get_ylim()
    place = low - 1
    for curve in sorted(axes.lines, key=lambda curve: float(curve.get_ydata()[-1])):
        place = max(float(curve.get_ydata()[-1]), place + 0.055 * (high - low))
        axes.annotate(
            curve.get_label(),
            (curve.get_xdata()[-1], place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            size=8,
            color=theme["faint"],
        )


if __name__ == "__main__":
    sys.exit(main())
