"""Builds small pieces of HTML and aligned text. All escaping of HTML happens here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from sagaz_lab.texts import printable

AT_LEFT = "margin:.3em 0"
"""The style of a table, which Jupyter would centre."""


class Markup(str):
    """HTML that needs no escaping."""

    __slots__ = ()


class _Forms(NamedTuple):
    html: str
    text: str


class Card(_Forms):
    """A display as HTML and text; the text is free of control characters."""

    __slots__ = ()

    def __new__(cls, html: str, text: str) -> Card:
        return super().__new__(cls, html, printable(text, lines=True))


def inline(value: object) -> Markup:
    """The value as HTML, escaped unless it is already markup."""
    return value if isinstance(value, Markup) else Markup(escape(str(value)))


def tag(name: str, *content: object, style: str = "") -> Markup:
    look = f' style="{style}"' if style else ""
    return Markup(f"<{name}{look}>{''.join(map(inline, content))}</{name}>")


def bullets(lines: Iterable[object]) -> Markup:
    items = [tag("li", line) for line in lines]
    return tag("ul", *items, style="margin:.3em 0") if items else Markup("")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """Empty without rows."""
    if not rows:
        return Markup("")
    head = tag("thead", tag("tr", *(tag("th", column, style="text-align:left") for column in columns)))
    body = tag("tbody", *(tag("tr", *(tag("td", cell, style="text-align:left") for cell in row)) for row in rows))
    return tag("table", head, body, style=AT_LEFT)


def aligned(columns: Sequence[str], rows: Sequence[Sequence[object]], indent: str = "  ") -> list[str]:
    """A table as lines of text."""
    if not rows:
        return []
    texts = [list(columns), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[n]) for row in texts) for n in range(len(columns))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in texts)
    return [f"{indent}{line}".rstrip() for line in lines]


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
