"""The colours of page and pictures: one of each scheme, the same everywhere, in light and in dark."""

from __future__ import annotations

__all__ = ["DARK", "LIGHT", "MARKERS", "SCHEME_COLOURS", "sentinel", "variables", "with_variables"]

import re
from collections.abc import Mapping

# Text on `paper` and `panel` has a contrast of at least 4.5 (WCAG 2.2, 1.4.3), marks of at least 3 (1.4.11).
# The schemes' colours stay apart without red or green; where colours are not seen at all, each scheme has a
# mark or a row of its own.
LIGHT: Mapping[str, str] = {
    "paper": "#ffffff",
    "panel": "#f6f7f9",
    "ink": "#1a1d21",
    "muted": "#59616b",
    "line": "#d8dce1",
    "grid": "#e6e9ec",
    "link": "#0b5cad",
    "good": "#17683a",
    "good-back": "#e5f4ea",
    "bad": "#b3261e",
    "bad-back": "#fdeceb",
    "reference": "#6b737d",
    "s0": "#237cde",
    "s1": "#cd7819",
    "s2": "#719469",
    "s3": "#a5479c",
    "s4": "#339bce",
    "s5": "#664100",
    "s6": "#372d7e",
    "s7": "#912f46",
}
DARK: Mapping[str, str] = {
    "paper": "#14171a",
    "panel": "#1c2025",
    "ink": "#e8eaed",
    "muted": "#a3abb5",
    "line": "#363c44",
    "grid": "#2a2f36",
    "link": "#7db8f5",
    "good": "#74d199",
    "good-back": "#15301f",
    "bad": "#ff9d94",
    "bad-back": "#3a1c1a",
    "reference": "#939ba6",
    "s0": "#629bf7",
    "s1": "#ec9869",
    "s2": "#90eea2",
    "s3": "#dbbefe",
    "s4": "#a9e7dc",
    "s5": "#9c8521",
    "s6": "#b562b8",
    "s7": "#db5667",
}
SCHEME_COLOURS = tuple(name for name in LIGHT if re.fullmatch(r"s\d", name))
# matplotlib's names, in the order of the schemes.
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")

_NAMES = tuple(LIGHT)
# A plotting library wants a real colour; nothing else on a page has one of these, so each is found again.
_SENTINEL = re.compile(r"#fe01([0-9a-f]{2})")


def sentinel(name: str) -> str:
    """What stands for a colour of that name in a picture until `with_variables`."""
    return f"#fe01{_NAMES.index(name):02x}"


def with_variables(style: str) -> str:
    """CSS in which each sentinel has become a variable, which follows light and dark."""
    return _SENTINEL.sub(lambda found: f"var(--{_NAMES[int(found[1], 16)]})", style)


def variables(colours: Mapping[str, str]) -> str:
    """CSS that sets the variables to these colours."""
    return "".join(f"--{name}:{value};" for name, value in colours.items())
