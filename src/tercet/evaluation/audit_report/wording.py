"""Numbers as people read them; what is not known is a dash."""

from __future__ import annotations

__all__ = [
    "DASH",
    "count",
    "drift",
    "excerpt",
    "magnitude",
    "p_value",
    "plain_value",
    "power",
    "rate",
    "seconds",
    "share",
    "signed",
    "size",
    "times",
]

import math

from tercet.evaluation.audit_report.markup import plain

DASH = "–"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MINUS = "−"


def drift(value: float | None) -> str:
    """A small number with its power of ten: "3.70·10⁻⁴"; exact zeros stay "0"."""
    if value is None or math.isnan(value):
        return DASH
    if value == 0.0:
        return "0"
    if math.isinf(value):
        return "∞"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.replace('-', _MINUS)}·{power(int(exponent))}"


def power(exponent: int) -> str:
    """A power of ten: "10⁻⁴"."""
    return f"10{str(exponent).translate(_SUPERSCRIPT)}"


def share(value: float | None, digits: int = 4) -> str:
    """A number between 0 and 1: "0.9934"; only what is exactly 1 reads 1."""
    if value is None or not math.isfinite(value):
        return DASH
    written = f"{value:.{digits}f}"
    # 0.99999 is not all of it, nor is 0.00001 nothing.
    if value < 1.0 and float(written) == 1.0:
        return "<1"
    if value > 0.0 and float(written) == 0.0:
        return ">0"
    return written.replace("-", _MINUS)


def signed(value: float | None, digits: int = 4) -> str:
    """A change: "+0.0012", "−0.0004", "0"."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0.0:
        return "0"
    written = f"{value:+.{digits}f}"
    if float(written) == 0.0:
        # Less than the digits show, and yet not nothing: "−6·10⁻⁷".
        mantissa, exponent = f"{value:+.0e}".split("e")
        written = f"{mantissa}·{power(int(exponent))}"
    return written.replace("-", _MINUS)


def magnitude(value: float | None) -> str:
    """A number of any size: "71,204", "3.20", "4.1·10⁻⁷"."""
    if value is None or math.isnan(value):
        return DASH
    return rate(value) if 1e-3 <= abs(value) < 1e7 else drift(value)


def p_value(value: float | None) -> str:
    """A p value: "0.43", "0.012", "<0.001"."""
    if value is None or not math.isfinite(value):
        return DASH
    return "<0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def rate(value: float | None) -> str:
    """Three digits at least: "1,234", "56.7", "0.123"."""
    if value is None or not math.isfinite(value):
        return DASH
    if value <= 0.0:
        return "0"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}"


def times(value: float | None) -> str:
    """How many times as much: "1.84×"."""
    return DASH if value is None or not math.isfinite(value) else f"{value:.2f}×"


def seconds(value: float | None) -> str:
    """A duration: "0.42 s", "12.3 s", "3 min 5 s"."""
    if value is None or not math.isfinite(value):
        return DASH
    if value < 60.0:
        return f"{value:.2f} s" if value < 10.0 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(value: float | None) -> str:
    """Bytes in decimal units: "384 B", "1.54 kB", "412 MB", "2.27 GB"."""
    if value is None or not math.isfinite(value):
        return DASH
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            number = value / scale
            return f"{number:.{0 if number >= 100 else 1 if number >= 10 else 2}f} {unit}"
    return f"{value:.0f} B"


def count(value: int | None) -> str:
    """A whole number: "71,204"."""
    return DASH if value is None else f"{value:,}"


def excerpt(text: str, most: int = 180) -> str:
    """The beginning of a text on one line, cut at a word."""
    line = " ".join(plain(text).split())
    if len(line) <= most:
        return line
    return f"{line[:most].rpartition(' ')[0] or line[:most]} …"


def plain_value(value: object) -> str:
    """A setting as people write it: "yes", "none", "a, b"; of a mapping "name value"."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:,.10g}" if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain_value(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(plain_value(inner) for inner in value) or "none"
    return str(value)
