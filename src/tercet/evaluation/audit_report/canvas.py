"""Figures of matplotlib as SVG that lives inside a page: its text is text, its colours are the page's."""

from __future__ import annotations

__all__ = ["Picture", "new_figure", "require_matplotlib", "text_width", "to_svg"]

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from tercet.evaluation.audit_report.markup import plain
from tercet.evaluation.audit_report.palette import sentinel, with_variables
from tercet.extras import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",  # the browser's own letters: selectable, searchable, read aloud
    "svg.hashsalt": "tercet",
    # Widths are reckoned in it; what browsers have for sans-serif is narrower, so nothing runs into anything.
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "axes.unicode_minus": True,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "grid.linewidth": 0.7,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}
_COLOURS = {
    "axes.edgecolor": "line",
    "axes.labelcolor": "muted",
    "text.color": "ink",
    "xtick.color": "line",
    "ytick.color": "line",
    "xtick.labelcolor": "ink",
    "ytick.labelcolor": "ink",
    "grid.color": "grid",
    "axes.facecolor": "paper",
}
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_FONT_FAMILY = re.compile(r"font-family:[^;]*;?\s*")


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the page.

    Attributes:
        name: unique in the page, fit for an id.
        title: what it shows.
        caption: how to read it, and what it says here.
        description: the same facts in words, for whoever does not see it.
        svg: markup.
    """

    name: str
    title: str
    caption: str
    description: str
    svg: str


def require_matplotlib() -> None:
    """Nothing, or MissingExtraError with the install command."""
    require("matplotlib", extra="report", purpose="A report with pictures")


@contextmanager
def _drawing() -> Iterator[None]:
    """matplotlib as the pictures want it, and as it was behind them."""
    matplotlib = require("matplotlib", extra="report", purpose="A report with pictures")
    settings = _SETTINGS | {key: sentinel(name) for key, name in _COLOURS.items()}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # Of a script that the measuring font lacks; the browser has it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, tied to no window and to no global state."""
    module = require("matplotlib.figure", extra="report", purpose="A report with pictures")
    engines = require("matplotlib.layout_engine", extra="report", purpose="A report with pictures")
    layout = engines.ConstrainedLayoutEngine(wspace=0.06)
    figure: Figure = module.Figure(figsize=(width, height), layout=layout)
    return figure


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Inches that a line takes at a size in points."""
    textpath = require("matplotlib.textpath", extra="report", purpose="A report with pictures")
    font = require("matplotlib.font_manager", extra="report", purpose="A report with pictures")
    with _drawing():
        properties = font.FontProperties(size=size, weight="bold" if bold else "normal")
        path = textpath.text_to_path
        width, _, _ = path.get_text_width_height_descent(text, properties, False)
    return float(width) / 72.0


def to_svg(name: str, title: str, description: str, draw: Callable[[], Figure]) -> str:
    """The markup of the figure that `draw` makes.

    Args:
        name: put before every id in it, so that ids are unique in a page of several pictures.
        title, description: said by screen readers.
        draw: called where matplotlib has the page's settings.
    """
    buffer = StringIO()
    with _drawing():
        draw().savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _clean(root, name)
    view = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib |= {
        "viewBox": view,
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-words",
        "style": f"--width:{float(view.split()[2]) * 96 / 72:.0f}px",
    }
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{name}-{'title' if tag == 'title' else 'words'}"})
        element.text = plain(text)
        root.insert(place, element)
    return ElementTree.tostring(root, encoding="unicode")


def _clean(root: ElementTree.Element, name: str) -> None:
    """Plain names, ids of this picture alone, colours by name, no fonts, no metadata."""
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.tail = None
        if element.tag != "text":
            element.text = None
        found = {_local(key): value for key, value in element.attrib.items()}
        element.attrib.clear()
        for key, value in found.items():
            if key == "id":
                if element.tag in ("g", "svg"):
                    continue
                value = f"{name}-{value}"
            elif key == "href":
                value = f"#{name}-{value.removeprefix('#')}"
            elif key == "clip-path":
                value = value.replace("url(#", f"url(#{name}-")
            elif key == "style":
                value = with_variables(_FONT_FAMILY.sub("", value)).strip().rstrip(";")
            elif key == "d":
                value = _LONG_NUMBER.sub(_shorter, value).replace("\n", "").strip()
            elif key in ("x", "y", "transform", "width", "height"):
                value = _LONG_NUMBER.sub(_shorter, value)
                if key == "transform" and value.startswith("rotate(-0 "):
                    continue
            element.attrib[key] = value


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _shorter(found: re.Match[str]) -> str:
    """Hundredths of a point are finer than any screen."""
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")
