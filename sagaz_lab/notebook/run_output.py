"""A run's log and displays, for its card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape

from sagaz_lab.model.log import Displayed, LogLine
from sagaz_lab.notebook.markup import Markup, shortened, tag
from sagaz_lab.runtime.runs.run_view import RunView
from sagaz_lab.texts import printable

SHOWN = 20
"""Number of last log lines on the card."""

TEXT = 2000
"""Maximum length of a display as text."""

_IMAGES = ("image/png", "image/jpeg", "image/gif")


def as_text(who: str, log_line: LogLine) -> str:
    """Format a line: time, level, action, text."""
    at = datetime.fromtimestamp(log_line.at).astimezone()
    return f"{at:%H:%M:%S} {log_line.level:<7} " + (f"{printable(who.rstrip())}: {log_line[1]}" if who else log_line[1])


def html(run: RunView) -> Sequence[Markup]:
    """Empty without output."""
    parts = [
        tag("div", tag("b", f"{one.action} displayed"), _shown(one), style="margin-top:.6em") for one in run.displays
    ]
    if run.log:
        lines = "\n".join(_lines(run))
        parts.append(
            tag("div", tag("b", _title(run)), tag("pre", lines, style="overflow:auto"), style="margin-top:.6em")
        )
    return parts


def text(run: RunView) -> list[str]:
    """As lines of text."""
    found = [f"{one.action} displayed {', '.join(one.data) or 'nothing'}" for one in run.displays]
    return [*found, _title(run), *(f"  {one}" for one in _lines(run))] if run.log else found


def _title(run: RunView) -> str:
    return "log" if len(run.log) <= SHOWN else f"log, the last {SHOWN} of {len(run.log)} lines; %triggers tail has more"


def _lines(run: RunView) -> Iterable[str]:
    return (as_text(one[0], one) for one in run.log[-SHOWN:])


def _shown(displayed: Displayed) -> Markup:
    """An image, or HTML in a sandboxed frame without scripts: the store may be someone else's."""
    data = displayed.data
    for kind in _IMAGES:
        if kind in data:
            return Markup(
                f'<div><img src="data:{kind};base64,{escape(str(data[kind]).strip())}" style="max-width:100%"></div>'
            )
    if "text/html" in data:
        page = escape(str(data["text/html"]))
        look = "width:100%;height:16em;border:0"
        return Markup(f'<iframe sandbox="" srcdoc="{page}" style="{look}"></iframe>')
    return tag("pre", shortened(str(data.get("text/plain", ", ".join(data))), TEXT))
