"""A run's trials as bars on a time axis: CSS boxes in HTML, block characters in text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sagaz_lab.notebook.markup import AT_LEFT, Markup, aligned, tag
from sagaz_lab.runtime.runs.run_view import RunView, StepView

SHOWN = 200
"""Maximum number of trials, the last ones: a run retried for days has too many for a page."""

WIDTH = 32
"""Width of a text bar, in characters."""

_COLOURS = {
    "completed": "var(--jp-success-color1,#388e3c)",
    "failed": "var(--jp-error-color1,#d32f2f)",
    "cut_off": "var(--jp-warn-color1,#f57c00)",
    "running": "var(--jp-brand-color1,#1976d2)",
}
_HATCHED = "repeating-linear-gradient(135deg,transparent 0 3px,var(--jp-layout-color0,#fff) 3px 5px)"
_LINE = "var(--jp-border-color2,#bdbdbd)"


class Bar(NamedTuple):
    """A trial and its position on the axis, `start` to `end` as fractions."""

    step: StepView
    start: float
    end: float


def bars(run: RunView) -> list[Bar]:
    """Live trials extend to the end of the axis, the time of the snapshot."""
    steps = run.steps[-SHOWN:]
    if not steps:
        return []
    first, last = min(step.started_at for step in steps), _end(run, steps)
    span = (last - first) or 1.0
    found = []
    for step in steps:
        end = last if step.duration_s is None else step.started_at + step.duration_s
        found.append(Bar(step, (step.started_at - first) / span, (end - first) / span))
    return found


def html(run: RunView) -> Markup:
    """Empty if no action has begun."""
    shown = bars(run)
    if not shown:
        return Markup("")
    columns = ("step", _axis(run), "status", "duration", "attempt", "trial")
    heads = [tag("th", column, style=f"text-align:left;{'width:50%' if n == 1 else ''}")
             for n, column in enumerate(columns)]  # fmt: skip
    rows = [tag("tr", *(tag("td", cell, style="text-align:left") for cell in _row(run, bar))) for bar in shown]
    look = f"table-layout:auto;width:100%;max-width:60em;{AT_LEFT}"
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows), style=look)
    return Markup(tag("div", *_omitted(run)) + table) if _omitted(run) else table


def text(run: RunView) -> list[str]:
    """As lines of text."""
    rows = []
    for bar in bars(run):
        start = min(int(bar.start * WIDTH), WIDTH - 1)
        length = max(round(bar.end * WIDTH) - start, 1)
        drawn = " " * start + ("▒" if bar.step.kind == "compensation" else "█") * length
        rows.append((name_of(bar.step), f"|{drawn:<{WIDTH}}|", *_facts(run, bar.step)))
    columns = ("step", f"0 .. {seconds(_span(run))}", "status", "duration", "attempt", "trial")
    return [*(f"  {line}" for line in _omitted(run)), *aligned(columns, rows)]


def name_of(step: StepView) -> str:
    return f"↩ {step.action}" if step.kind == "compensation" else step.action


def seconds(duration: float) -> str:
    """A human-readable duration."""
    if duration < 1:
        return f"{duration * 1000:.{1 if duration < 0.01 else 0}f} ms"
    if duration < 60:
        return f"{duration:.1f} s"
    minutes, rest = divmod(round(duration), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _end(run: RunView, steps: Sequence[StepView]) -> float:
    ends = [step.started_at + (step.duration_s or 0.0) for step in steps]
    if run.is_live and any(step.duration_s is None for step in steps):
        ends.append(run.seen_at)
    return max(ends)


def _span(run: RunView) -> float:
    steps = run.steps[-SHOWN:]
    return _end(run, steps) - min(step.started_at for step in steps) if steps else 0.0


def _omitted(run: RunView) -> list[str]:
    more = len(run.steps) - SHOWN
    return [f"{more} earlier trials are not shown"] if more > 0 else []


def _facts(run: RunView, step: StepView) -> tuple[str, ...]:
    status = step.status.replace("_", " ")
    if step.status == "running" and (told := run.progress.get(step.action, "running")) != "running":
        status = f"running: {told}"
    return status, "" if step.duration_s is None else seconds(step.duration_s), str(step.attempt), str(step.trial)


def _axis(run: RunView) -> Markup:
    """The scale above the bars: both ends and the middle."""
    span = _span(run)
    ends = [tag("span", seconds(part * span) if part else "0") for part in (0.0, 0.5, 1.0)]
    return tag("div", *ends, style="display:flex;justify-content:space-between;font-weight:normal")


def _row(run: RunView, bar: Bar) -> tuple[object, ...]:
    """The minimum width keeps a short trial visible; the limit of `left` keeps it inside the track."""
    colour = _COLOURS[bar.step.status]
    fill = f"{_HATCHED},{colour}" if bar.step.kind == "compensation" else colour
    width = 100 * (bar.end - bar.start)
    look = (
        f"position:absolute;left:min({100 * bar.start:.2f}%,100% - 3px);width:{width:.2f}%;min-width:3px;top:0;"
        f"bottom:0;border-radius:2px;background:{fill}"
    )
    ground = f"position:relative;height:1em;min-width:12em;border-left:1px solid {_LINE};border-right:1px solid {_LINE}"
    return (name_of(bar.step), tag("div", tag("div", style=look), style=ground), *_facts(run, bar.step))
