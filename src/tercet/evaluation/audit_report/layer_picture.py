"""The picture of the layers: what each loses by itself, and how large its activations are."""

from __future__ import annotations

__all__ = ["layer_picture"]

import math
from typing import TYPE_CHECKING

from tercet.evaluation.audit_report import wording
from tercet.evaluation.audit_report.axes import LogScale, frame, legend
from tercet.evaluation.audit_report.canvas import Picture, new_figure, to_svg
from tercet.evaluation.audit_report.palette import sentinel
from tercet.evaluation.audit_report.schemes import SchemeView, View
from tercet.precision.dtype import DType

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# bfloat16 and float32 reach to 3·10³⁸, far above any axis.
_LIMITS = (DType.FLOAT16, DType.FLOAT8)
_MOST_NAMES = 16
_SHORTER = {"embeddings": "emb."}


def layer_picture(view: View) -> Picture | None:
    """Drift that each layer adds and its largest activation; None where layers were not looked at."""
    layers = view.result.layers
    # Layers are told by the scheme's name, or by its label alone, which is the first scheme's that has it.
    by_label = {scheme.any_row.label: scheme for scheme in reversed(view.schemes)}
    by_label |= {scheme.name: scheme for scheme in view.schemes}
    labels = list(dict.fromkeys(label for layer in layers for label in layer.drift))
    series = [(by_label[label], label) for label in labels if label in by_label]
    drifts = [
        value for layer in layers for value in layer.drift.values() if math.isfinite(value) and value >= 0.0
    ]
    largest = [layer.largest for layer in layers if layer.largest is not None and layer.largest > 0.0]
    if not layers or not ((series and drifts) or largest):
        return None

    def draw() -> Figure:
        kinds = (["drift"] if series and drifts else []) + (["largest"] if largest else [])
        width = 10.4 if len(layers) > 9 else 7.6
        figure = new_figure(width, 0.7 + 2.1 * len(kinds) + (0.3 if series else 0.0))
        every = figure.subplots(len(kinds), 1, sharex=True, squeeze=False)[:, 0]
        for axes, kind in zip(every, kinds, strict=True):
            if kind == "drift":
                _drift(axes, view, series, drifts)
            else:
                _largest(axes, view, largest)
            frame(axes, "y")
        _names(every[-1], [layer.layer for layer in layers])
        if series and drifts:
            legend(figure, [scheme for scheme, _ in series], columns=6 if width > 8 else 4)
        return figure

    title = "Layer by layer"
    unsafe = [layer for layer in layers if layer.unsafe]
    above = (
        "Above: drift of the hidden states that each layer adds by itself, given the reference’s. Below: the "
    )
    caption = (
        (above if series and drifts and largest else "The ")
        + "largest activation on the sample, against what the formats can hold; bfloat16 holds 3.4·10³⁸. "
        + (
            f"{len(unsafe)} of {len(layers)} layers leave the range of a format."
            if unsafe
            else "No layer leaves the range of a format that was looked at."
        )
    )
    words = " ".join(
        f"{layer.layer}: largest {_number(layer.largest)}"
        + "".join(f", {label} {wording.drift(value)}" for label, value in layer.drift.items())
        + "."
        for layer in layers
    )
    return Picture("layers", title, caption, words, to_svg("layers", title, words, draw))


def _number(value: float | None) -> str:
    return wording.DASH if value is None else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def _drift(axes: Axes, view: View, series: list[tuple[SchemeView, str]], drifts: list[float]) -> None:
    scale = LogScale.of(drifts)
    for scheme, label in series:
        points = [
            (place, scale.at(layer.drift[label]))
            for place, layer in enumerate(view.result.layers)
            if math.isfinite(layer.drift.get(label, math.nan))
        ]
        axes.plot(
            [place for place, _ in points],
            [value for _, value in points],
            color=sentinel(scheme.colour),
            marker=scheme.marker,
            markersize=4.5,
            linewidth=1.4,
        )
    scale.vertical(axes)
    axes.set_ylabel("own drift, 1 − cosine")


def _largest(axes: Axes, view: View, largest: list[float]) -> None:
    labels = {scheme.any_row.label for scheme in view.schemes}
    limits = [dtype for dtype in _LIMITS if dtype is DType.FLOAT16 or dtype.label in labels]
    limits = [dtype for dtype in limits if dtype.max < max(largest) * 300.0]
    scale = LogScale.of([*largest, *(dtype.max for dtype in limits)])
    for place, layer in enumerate(view.result.layers):
        if layer.largest is not None and layer.largest > 0.0:
            axes.bar(
                place,
                scale.at(layer.largest) - scale.low,
                bottom=scale.low,
                width=0.62,
                color=sentinel("bad" if layer.unsafe else "reference"),
                linewidth=0,
            )
    scale.vertical(axes)
    for dtype in limits:
        height = scale.at(dtype.max)
        axes.axhline(height, color=sentinel("bad"), linewidth=1.1, linestyle=(0, (4, 2)))
        axes.annotate(
            f"{dtype.label}\n{dtype.max:,.0f}",
            (1.0, height),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            ha="left",
            va="center",
            fontsize=8,
            color=sentinel("bad"),
        )
    axes.set_ylim(scale.low, scale.high + (scale.high - scale.low) * 0.12)
    axes.set_ylabel("largest activation")


def _names(axes: Axes, names: list[str]) -> None:
    """As many names as have room; all of the few that are no numbered layers."""
    axes.set_xlim(-0.7, len(names) - 0.3)
    every = max(1, math.ceil(len(names) / _MOST_NAMES))
    shown = range(0, len(names), every)
    words = [wording.excerpt(_SHORTER.get(name, name.removeprefix("layer ")), 14) for name in names][::every]
    long = any(len(word) > 5 for word in words)
    axes.set_xticks(shown, words, rotation=35 if long else 0, ha="right" if long else "center")
    if long:
        for label in axes.get_xticklabels():
            label.set_rotation_mode("anchor")
    axes.set_xlabel("encoder layer")
