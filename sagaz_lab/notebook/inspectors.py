"""Cards of an event, a run, the sagas, the Lab and the difference between two revisions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import islice
from pprint import pformat
from typing import Any

from sagaz_lab.errors import describe
from sagaz_lab.lab import Lab
from sagaz_lab.model.event import Event
from sagaz_lab.model.saga import SagaDefinition
from sagaz_lab.notebook import run_output, timeline
from sagaz_lab.notebook.cards import coloured, saga_card, status_card
from sagaz_lab.notebook.markup import AT_LEFT, Card, Markup, aligned, shortened, table, tag
from sagaz_lab.runtime.registry.changes import Diff
from sagaz_lab.runtime.runs.run_view import RunView, StepView
from sagaz_lab.texts import masked_address

VALUE = 2000
"""Maximum length of a value."""

ITEMS, DEPTH = 50, 8
"""Maximum number of items of a container, and nesting depth."""

_FRAME = re.compile(r'^  File "(?P<file>[^"\n]*)", line (?P<line>\d+), in .*\n    (?P<code>.*)', re.MULTILINE)
_CELLS = ("ipykernel_", "<ipython-input")

Facts = list[tuple[str, object]]


def event_card(event: Event) -> Card:
    facts = _event_facts(event)
    title = f"event {event.id} from {event.source}"
    return Card(tag("div", tag("b", title), _facts_html(facts)), "\n".join((title, *_facts_text(facts))))


def run_card(run: RunView) -> Card:
    facts = f"{run.saga} revision {run.revision}, attempt {run.attempt}, {_moment(run.started_at)}, "
    facts += timeline.seconds(run.duration_s) + (f", retry at {_moment(run.retry_at)}" if run.retry_at else "")
    by = f"started by {run.trigger}" if run.trigger else "started by hand"
    parts = [tag("div", tag("b", f"run {run.run_id}: {run.status}"), f" {facts}; {by}"), timeline.html(run)]
    text = [f"run {run.run_id}: {run.status}", f"  {facts}; {by}", *timeline.text(run)]
    for title, found in (("inputs", _inputs(run)), ("results", list(run.results.items()))):
        if found:
            parts.append(tag("div", tag("b", title), _facts_html(found), style="margin-top:.6em"))
            text += [title, *_facts_text(found)]
    failed = _failures(run)
    if failed:
        parts.append(tag("div", tag("b", "errors"), *map(_error_html, failed), style="margin-top:.6em"))
        text += ["errors", *(f"  {line}" for same in failed for line in _error_lines(same))]
    elif run.error:
        parts.append(tag("div", tag("b", "error "), run.error, style="margin-top:.6em"))
        text.append(f"error {run.error}")
    parts += run_output.html(run)
    text += run_output.text(run)
    return Card(tag("div", *parts), "\n".join(text))


def class_card(cls: type) -> Card | None:
    """The card of a saga class; None for an abstract or other class."""
    definition = cls.__dict__.get("__definition__")
    return saga_card(definition) if isinstance(definition, SagaDefinition) else None


_SAGA_COLUMNS = ("saga", "revision", "triggers", "registered")


def sagas_card(sagas: Mapping[str, SagaDefinition]) -> Card:
    rows = [(saga.name, f"r{saga.revision}", _triggers(saga), _moment(saga.registered_at)) for saga in sagas.values()]
    if not rows:
        return Card(tag("div", "no sagas"), "no sagas")
    return Card(tag("div", table(_SAGA_COLUMNS, rows)), "\n".join(aligned(_SAGA_COLUMNS, rows, indent="")))


def mapping_card(values: Mapping[Any, Any]) -> Card | None:
    """The card of `lab.sagas`; None for any other mapping."""
    of_sagas = values and all(isinstance(value, SagaDefinition) for value in values.values())
    return sagas_card(values) if of_sagas else None


def lab_card(lab: Lab) -> Card:
    status, sagas = status_card(lab.status()), sagas_card(lab.sagas)
    head = f"Lab on {masked_address(lab.store.url)}"
    return Card(tag("div", tag("b", head), status.html, sagas.html), f"{head}\n{status.text}\n{sagas.text}")


def diff_card(diff: Diff) -> Card:
    head = f"{diff.saga}: revision {diff.old} to {diff.new}, "
    if not diff.lines:
        same = head + "same code"
        return Card(tag("div", same), same)
    counts = f"{diff.added} added, {diff.removed} removed"
    return Card(tag("div", tag("b", head), counts, tag("pre", *coloured(diff.lines))), str(diff))


def _triggers(saga: SagaDefinition) -> str:
    return ", ".join(f"{name} <- {trigger.spec}" for name, trigger in saga.triggers.items())


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S %Z}" if at else ""


def _event_facts(event: Event) -> Facts:
    facts: Facts = [("timestamp", Verbatim(f"{event.timestamp:%Y-%m-%d %H:%M:%S.%f %Z}")), ("attempt", event.attempt)]
    if event.key is not None:
        facts.append(("key", event.key))
    if event.headers:
        facts.append(("headers", dict(event.headers)))
    return [*facts, ("payload", event.payload)]


def _inputs(run: RunView) -> Facts:
    facts: Facts = []
    if run.event is not None:
        facts += [("event", Verbatim(f"{run.event.id} from {run.event.source}")), ("payload", run.event.payload)]
    return [*facts, *([("context", dict(run.context))] if run.context else [])]


# --- values ---


class Verbatim(str):
    """A string shown without quotes."""

    __slots__ = ()


def value_text(value: object) -> str:
    """The value's `repr`, shortened, or the error if its `repr` fails."""
    if isinstance(value, Verbatim):
        return str(value)
    try:
        return shortened(pformat(_bounded(value, DEPTH), width=100, compact=True, sort_dicts=False), VALUE)
    except Exception as error:  # noqa: BLE001  user code may raise anything
        return f"<unprintable {type(value).__name__}: {describe(error)}>"


class _More:
    """Stands for omitted items."""

    def __repr__(self) -> str:
        return "..."


def _bounded(value: Any, depth: int) -> Any:
    """The first items of plain containers, since formatting all may be slow."""
    if type(value) is str:
        return value[:VALUE]
    if type(value) not in (dict, list, tuple) or not value:
        return value
    if depth == 0:
        return _More()
    more = [_More()] if len(value) > ITEMS else []
    if isinstance(value, dict):
        items = {key: _bounded(item, depth - 1) for key, item in islice(value.items(), ITEMS)}
        return {**items, **{it: it for it in more}}
    return type(value)([*(_bounded(item, depth - 1) for item in value[:ITEMS]), *more])


def _facts_html(facts: Facts) -> Markup:
    look = "text-align:left;vertical-align:top"
    code = "margin:0;padding:0;white-space:pre-wrap;overflow-wrap:anywhere"
    rows = [tag("tr", tag("td", name, style=look), tag("td", tag("pre", value_text(value), style=code), style=look))
            for name, value in facts]  # fmt: skip
    return tag("table", tag("tbody", *rows), style=AT_LEFT)


def _facts_text(facts: Facts) -> list[str]:
    wide = max(len(name) for name, _ in facts)
    lines = []
    for name, value in facts:
        first, *more = value_text(value).splitlines() or [""]
        lines += [f"  {name:<{wide}}  {first}", *(f"  {'':<{wide}}  {line}" for line in more)]
    return lines


# --- errors ---


def _failures(run: RunView) -> list[list[StepView]]:
    """Failed trials, grouped by step and error."""
    alike: dict[tuple[str, str | None], list[StepView]] = {}
    for step in run.steps[-timeline.SHOWN :]:
        if step.error:
            alike.setdefault((timeline.name_of(step), step.error), []).append(step)
    return list(alike.values())


def _error_lines(alike: list[StepView]) -> Iterable[str]:
    step = alike[-1]
    times = f" ({len(alike)} times)" if len(alike) > 1 else ""
    yield f"{timeline.name_of(step)}: {step.error}{times}"
    if place := _place(step.traceback or ""):
        yield f"  {place}"


def _error_html(alike: list[StepView]) -> Markup:
    step, (headline, *places) = alike[-1], _error_lines(alike)
    where = [tag("div", tag("code", place.strip()), style="margin-left:1.2em;opacity:.8") for place in places]
    if not step.traceback:
        return tag("div", headline, *where)
    return tag("details", tag("summary", headline, *where), tag("pre", step.traceback, style="overflow:auto"))


def _place(traceback: str) -> str:
    """The traceback's last line in a cell, else its last line."""
    frames = list(_FRAME.finditer(traceback))
    in_cells = [frame for frame in frames if any(mark in frame["file"] for mark in _CELLS)]
    if not frames:
        return ""
    last = (in_cells or frames)[-1]
    return f"{'cell ' if in_cells else ''}line {last['line']}: {last['code'].strip()}"
