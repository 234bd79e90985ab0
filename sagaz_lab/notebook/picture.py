"""A dated still picture of a Lab, for saved notebooks, where widgets do not work."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo

from sagaz_lab.lab import Lab
from sagaz_lab.notebook.cards import status_card
from sagaz_lab.notebook.feed import Feed
from sagaz_lab.notebook.markup import Card, Markup, tag

WIDTH, HEIGHT = 600, 80
_COLOURS = {"received": "#1976d2", "filtered": "#9e9e9e", "started": "#f57c00", "completed": "#388e3c"}


def picture(lab: Lab, feed: Feed, zone: tzinfo = UTC, *, starting: bool = False) -> Card:
    """The tables of `lab.status()` below a chart of the last minutes' throughput; times in `zone`."""
    now = datetime.fromtimestamp(lab.clock.now(), zone)
    status = status_card(lab.status(), zone, "starting" if starting else "")
    head = f"sagaz_lab, as of {now:%Y-%m-%d %H:%M:%S %Z}"
    html = tag("div", tag("b", head), Markup(_throughput(feed)), status.html)
    # dashboard.css hides this class next to a live dashboard.
    return Card(Markup(f'<div class="sagaz-lab-still">{html}</div>'), f"{head}\n{status.text}")


def _throughput(feed: Feed) -> str:
    """Events per second of all triggers; empty with fewer than two points."""
    lines = feed.totals()
    times, rates = lines.pop("at"), lines
    highest = max((rate for line in rates.values() for rate in line), default=0.0)
    if len(times) < 2 or not highest:
        return ""
    drawn = "".join(
        f'<polyline fill="none" stroke="{_COLOURS[name]}" stroke-width="1.5" points="{_points(times, line, highest)}"/>'
        for name, line in rates.items()
    )
    words = " ".join(f'<tspan fill="{_COLOURS[name]}">{name} {line[-1]:.3g}/s</tspan>' for name, line in rates.items())
    return (
        f'<svg role="img" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT + 18}" width="{WIDTH}" '
        f'style="max-width:100%;display:block;font:12px system-ui,sans-serif"><title>throughput, up to '
        f'{highest:.3g}/s</title>{drawn}<text x="2" y="{HEIGHT + 14}">{words}</text></svg>'
    )


def _points(times: Sequence[float], line: Sequence[float], highest: float) -> str:
    span = (times[-1] - times[0]) or 1.0
    return " ".join(
        f"{(at - times[0]) / span * WIDTH:.1f},{HEIGHT - rate / highest * (HEIGHT - 4):.1f}"
        for at, rate in zip(times, line, strict=True)
    )
