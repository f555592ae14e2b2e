"""HTML by small functions that escape whatever they are given, and tables of them."""

from __future__ import annotations

__all__ = ["Cell", "Column", "Markup", "element", "folded", "joined", "plain", "table"]

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

# Characters that neither HTML nor XML has: controls other than white space, halves of pairs, non-characters.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """Text that is markup already; any other string is escaped where it comes in."""

    __slots__ = ()


def element(tag: str, attributes: Mapping[str, str | None], *content: str) -> Markup:
    """One element around its content, which is escaped unless it is Markup; without attributes of None."""
    written = "".join(
        f' {name}="{escape(plain(value))}"' for name, value in attributes.items() if value is not None
    )
    return Markup(f"<{tag}{written}>{joined(*content)}</{tag}>")


def joined(*content: str) -> Markup:
    """All of it in a row, escaped unless it is Markup."""
    return Markup("".join(part if isinstance(part, Markup) else escape(plain(part)) for part in content))


def plain(text: str) -> str:
    """Text that markup and UTF-8 can hold: what they cannot, such as a zero byte, becomes U+FFFD."""
    return _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def folded(summary: str, content: Markup) -> Markup:
    """Content that is opened by a click, and is there in print."""
    return element("details", {"class": "more"}, element("summary", {}, summary), content)


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        content: escaped unless it is Markup.
        number: whether it is aligned as numbers are.
        note: a class that marks it: "best", "over", "quiet".
        rows: how many rows it spans.
        columns: how many columns it spans.
        header: whether it names its row.
    """

    content: str
    number: bool = False
    note: str = ""
    rows: int = 1
    columns: int = 1
    header: bool = False

    def html(self) -> Markup:
        """The cell as markup."""
        classes = " ".join(name for name in ("num" if self.number else "", self.note) if name)
        attributes = {
            "class": classes or None,
            "scope": ("rowgroup" if self.rows > 1 else "row") if self.header else None,
            "rowspan": str(self.rows) if self.rows > 1 else None,
            "colspan": str(self.columns) if self.columns > 1 else None,
        }
        return element("th" if self.header else "td", attributes, self.content)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: its heading, the unit below it, whether it is aligned as numbers are."""

    title: str
    unit: str = ""
    number: bool = True


def table(
    name: str,
    title: str,
    caption: str,
    columns: Sequence[Column],
    groups: Sequence[Sequence[Sequence[Cell]]],
    *,
    best: int | None = None,
) -> Markup:
    """A table that scrolls by itself where a screen is narrower.

    Args:
        name: unique in the page.
        title, caption: what is in it, in short and in full.
        columns: headings.
        groups: rows, those that belong together in one group.
        best: place of the group that is marked.
    """
    head = [
        element(
            "th",
            {"scope": "col", "class": "num" if column.number else None},
            column.title,
            element("span", {"class": "unit"}, column.unit) if column.unit else "",
        )
        for column in columns
    ]
    bodies = [
        element(
            "tbody",
            {"class": "best" if place == best else None},
            *(element("tr", {}, *(cell.html() for cell in row)) for row in rows),
        )
        for place, rows in enumerate(groups)
    ]
    inner = element(
        "table",
        {},
        element("caption", {"id": f"{name}-caption"}, element("strong", {}, title), " ", caption),
        element("thead", {}, element("tr", {}, *head)),
        *bodies,
    )
    scroll = {"class": "scroll", "role": "region", "tabindex": "0", "aria-labelledby": f"{name}-caption"}
    return element("div", scroll, inner)
