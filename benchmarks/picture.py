"""The picture: tokens a second by engine, a panel for each workload; drawn by the peers' environment.

python benchmarks/picture.py FIGURES.json OUT.svg     # writes OUT.svg and OUT-dark.svg
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

COLUMNS = 3
SHAPES = {"minilm": "MiniLM", "m3-6": "BGE-M3 shape, 6 layers", "m3-24": "BGE-M3 shape, 24 layers"}
# Inches: above the first row, and between rows for the titles of the next.
HEADER, GAP = 1.15, 0.6
THEMES = {
    "": {"paper": "#ffffff", "ink": "#1f2328", "faint": "#656d76", "ours": "#0969da", "peer": "#afb8c1"},
    "-dark": {"paper": "#0d1117", "ink": "#e6edf3", "faint": "#8b949e", "ours": "#58a6ff", "peer": "#6e7681"},
}


def main() -> None:
    data, out = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    for suffix, theme in THEMES.items():
        figure = draw(data, theme)
        figure.savefig(out.with_stem(out.stem + suffix), bbox_inches="tight", metadata={"Date": None})
        figure.savefig(Path(sys.argv[1]).with_name(f"picture{suffix}.png"), bbox_inches="tight", dpi=110)


def draw(data: dict[str, Any], theme: dict[str, str]) -> Any:
    """A row of panels for each shape, wrapped at three; each panel has its own scale."""
    pyplot.rcParams.update({"font.size": 9, "font.family": "DejaVu Sans", "svg.hashsalt": "tercet"})
    shapes = list(dict.fromkeys(panel["shape"] for panel in data["panels"]))
    rows: list[list[dict[str, Any]]] = []
    for shape in shapes:
        panels = [panel for panel in data["panels"] if panel["shape"] == shape]
        rows += [panels[i : i + COLUMNS] for i in range(0, len(panels), COLUMNS)]
    heights = [0.24 * max(len(panel["bars"]) for panel in row) + 0.75 for row in rows]
    figure = pyplot.figure(figsize=(15, sum(heights) + HEADER), facecolor=theme["paper"])
    grid = figure.add_gridspec(
        len(rows),
        COLUMNS,
        height_ratios=heights,
        hspace=GAP * len(heights) / sum(heights),
        wspace=0.75,
        top=1 - HEADER / (sum(heights) + HEADER),
    )
    for number, row in enumerate(rows):
        for column, panel in enumerate(row):
            axes = figure.add_subplot(grid[number, column])
            fill(axes, panel, theme, max(len(other["bars"]) for other in row))
    machine = data["machine"]
    figure.text(
        0.125,
        0.995,
        "Tokens a second, end to end, on real tokens: longer is better",
        color=theme["ink"],
        size=14,
        weight="bold",
        va="top",
    )
    figure.text(
        0.125,
        0.995 - 0.33 / (sum(heights) + HEADER),
        f"{machine['cpu']}, {machine['cores']} cores. Blue: Tercet. Pale, hatched: not float32. "
        "Lines: fastest and slowest sample.",
        color=theme["faint"],
        size=10,
        va="top",
    )
    return figure


def fill(axes: Any, panel: dict[str, Any], theme: dict[str, str], places: int) -> None:
    """One workload: bars from the fastest to the slowest, as thick as in a panel of so many."""
    bars = sorted(panel["bars"], key=lambda bar: bar["rate"])
    most = max(bar["high"] for bar in bars)
    for place, bar in enumerate(bars):
        axes.barh(
            place,
            bar["rate"],
            height=0.72,
            color=theme["ours" if bar["ours"] else "peer"],
            alpha=1.0 if bar["exact"] else 0.55,
            hatch=None if bar["exact"] else "////",
            edgecolor=theme["paper"],
            linewidth=0,
        )
        axes.plot([bar["low"], bar["high"]], [place, place], color=theme["ink"], linewidth=1)
        axes.text(
            max(bar["high"], bar["rate"]) + 0.02 * most,
            place,
            label(bar, panel),
            va="center",
            size=8,
            color=theme["ink"] if bar["ours"] else theme["faint"],
            weight="bold" if bar["ours"] else "normal",
        )
    axes.set_yticks(range(len(bars)), [bar["engine"] for bar in bars])
    for text, bar in zip(axes.get_yticklabels(), bars, strict=True):
        text.set_color(theme["ink"] if bar["ours"] else theme["faint"])
        text.set_fontweight("bold" if bar["ours"] else "normal")
    axes.set_xlim(0, most * 1.32)
    axes.set_ylim(len(bars) - places - 0.5, len(bars) - 0.5)
    axes.set_facecolor(theme["paper"])
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    shape = SHAPES.get(panel["shape"], panel["shape"])
    axes.set_title(f"{shape}: {panel['title']}", loc="left", size=10, color=theme["ink"], weight="bold")


def label(bar: dict[str, Any], panel: dict[str, Any]) -> str:
    """The rate; of a single query the milliseconds, which is what people ask there."""
    if panel["workload"] == "query":
        milliseconds = 1000 * bar["seconds"]
        return f"{milliseconds:,.0f} ms" if milliseconds >= 100 else f"{milliseconds:.3g} ms"
    digits = max(0, 2 - math.floor(math.log10(bar["rate"])))
    return f"{bar['rate']:,.{digits}f}"


if __name__ == "__main__":
    main()
