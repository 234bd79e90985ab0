"""Cards of sagas, changes, outcomes and status: HTML and text from the same data."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

from sagaz_lab.model.run import Outcome
from sagaz_lab.model.saga import SagaDefinition
from sagaz_lab.notebook import dag
from sagaz_lab.notebook.markup import Card, Markup, aligned, bullets, shortened, table, tag
from sagaz_lab.runtime.decisions.preview import Preview
from sagaz_lab.runtime.recovery.start_report import StartReport
from sagaz_lab.runtime.registry.changes import Change
from sagaz_lab.runtime.status import SourceStatus, Status, Why
from sagaz_lab.texts import printable

DIFF_LINES = 60
OUTCOMES = 50
WARNINGS = 5


def saga_card(saga: SagaDefinition) -> Card:
    """Inside its own cell a class has no revision yet: it is registered when the cell succeeds."""
    number = f"revision {saga.revision}" if saga.revision else "registered when this cell succeeds"
    head = tag("div", tag("b", saga.name), f" {number}")
    code = tag("details", tag("summary", "code"), tag("pre", saga.source_text)) if saga.source_text else ""
    return Card(tag("div", head, Markup(dag.svg(saga)), code), dag.text(saga))


def change_card(change: Change, saga: SagaDefinition) -> Card:
    """The effect of registering a class, and the resulting saga."""
    headline, diff = _headline(change), list(change.diff)
    if len(diff) > DIFF_LINES:
        diff[DIFF_LINES:] = [f"... {len(diff) - DIFF_LINES} more lines"]
    parts = [tag("div", tag("b", saga.name), f": {headline}"), bullets(change.warnings), Markup(dag.svg(saga))]
    if diff:
        parts.append(tag("details", tag("summary", "what changed"), tag("pre", *coloured(diff))))
    described = dag.text(saga).splitlines()[1:]
    text = [f"{saga.name}: {headline}", *(f"  ! {warning}" for warning in change.warnings), *described, *diff]
    return Card(tag("div", *parts), "\n".join(text))


def change_line(change: Change) -> str:
    return printable("; ".join((f"saga {change.name}: {_headline(change)}", *change.warnings)))


def _headline(change: Change) -> str:
    if change.previous is None:
        return f"revision {change.revision}, the first"
    if change.is_new:
        return f"revision {change.revision} (was {change.previous})"
    if change.previous != change.revision:
        return f"revision {change.revision} again (was {change.previous})"
    return f"no change: still revision {change.revision}"


def coloured(diff: Iterable[str]) -> list[Markup]:
    """Colour a unified diff."""
    return [tag("span", f"{line}\n", style=_diff_look(line)) for line in diff]


def _diff_look(line: str) -> str:
    if line.startswith(("+++", "---")):
        return "opacity:.6"
    if line.startswith("+"):
        return "color:var(--jp-success-color1,#388e3c)"
    return "color:var(--jp-error-color1,#d32f2f)" if line.startswith("-") else "opacity:.6"


_OUTCOME_COLUMNS = ("event", "trigger", "outcome", "reason", "run", "revision")


def outcome_line(outcome: Outcome) -> str:
    """One line for one outcome."""
    became = f"{outcome.kind} {outcome.run_id}" if outcome.run_id and outcome.kind == "started" else str(outcome.kind)
    reason = with_facts(outcome.reason, outcome.facts)
    return printable(f"{outcome.event_id} -> {outcome.trigger}: {became}{reason and f' ({reason})'}")


def outcome_card(outcomes: Sequence[Outcome]) -> Card:
    rows = [_outcome_row(outcome) for outcome in outcomes[:OUTCOMES]]
    more = f"... and {len(outcomes) - OUTCOMES} more" if len(outcomes) > OUTCOMES else ""
    text = [outcome_line(outcome) for outcome in outcomes[:OUTCOMES]]
    html = tag("div", table(_OUTCOME_COLUMNS, rows), more)
    return Card(html, "\n".join([*text, more] if more else text))


def _outcome_row(outcome: Outcome) -> tuple[str, ...]:
    reason = with_facts(outcome.reason, outcome.facts)
    return (outcome.event_id, outcome.trigger, outcome.kind, reason, outcome.run_id or "", f"r{outcome.revision}")


def with_facts(reason: str, facts: Mapping[str, Any] | None) -> str:
    told = ", ".join(f"{name}={reprlib.repr(value)}" for name, value in (facts or {}).items())
    return shortened(f"{reason} [{told}]" if told else reason, 300)


_SOURCE_COLUMNS = ("source", "state", "since", "received", "read by")
_COUNTS = ("received", "started", "filtered", "duplicate", "dropped", "dead", "waiting")
_TRIGGER_COLUMNS = ("trigger", "source", "state", "revision", *_COUNTS)
_RUN_COLUMNS = ("run", "saga", "revision", "actions")


def handle_card(status: Status) -> Card:
    """The card of a handle, which `%triggers start` returns before the sources are connected."""
    if status.started:
        return status_card(status)
    line = "starting; see %triggers status"
    return Card(tag("div", line), line)


def _state(source: SourceStatus) -> str:
    error = f": {source.error}" if source.error else ""
    return source.state + error + (f", {source.lost} lost" if source.lost else "")


def status_card(status: Status, zone: tzinfo = UTC, state: str = "") -> Card:
    """Times are in `zone`; `state` replaces "started" or "not started"."""
    sources = [(s.name, _state(s), clock_time(s.since, zone), s.received, ", ".join(s.read_by)) for s in status.sources]
    triggers = [(t.name, t.source, t.state, f"r{t.revision}", *(t.counts.get(name, 0) for name in _COUNTS))
                for t in status.triggers]  # fmt: skip
    runs = [(r.run_id, r.saga, f"r{r.revision}", ", ".join(f"{name}: {how}" for name, how in r.actions.items()))
            for r in status.runs[:OUTCOMES]]  # fmt: skip
    state = state or ("started" if status.started else "not started")
    head = f"{state}{', isolated' if status.isolated else ''}, {status.runs_in_flight} runs in flight"
    tables = ((_SOURCE_COLUMNS, sources), (_TRIGGER_COLUMNS, triggers), (_RUN_COLUMNS, runs))
    warnings = [" ".join(warning.split()) for warning in status.warnings[-WARNINGS:]]
    if (more := len(status.warnings) - WARNINGS) > 0:
        warnings.insert(0, f"{more} earlier warnings")
    html = tag("div", tag("div", head), *(table(*one) for one in tables), bullets(warnings))
    text = [head, *(line for one in tables for line in aligned(*one)), *(f"  ! {warning}" for warning in warnings)]
    return Card(html, "\n".join(text))


def away_card(away: StartReport, whose: str) -> Card:
    """The report of a start; `whose` names the absent process."""
    head = f"{whose} {away.headline()}" if away.lasted else away.headline()
    lines = list(away.lines())
    return Card(tag("div", tag("b", head), bullets(lines)), "\n".join((head, *(f"  {line}" for line in lines))))


def clock_time(at: float, zone: tzinfo = UTC) -> str:
    """With the zone's name; "" for no time."""
    return f"{datetime.fromtimestamp(at, zone):%H:%M:%S %Z}" if at else ""


def preview_card(preview: Preview) -> Card:
    head = f"{preview.trigger}: would be {preview.outcome}"
    columns, rows = ("gate", "verdict", "why"), [(v.gate, v.verdict, v.detail) for v in preview.verdicts]
    html = tag("div", tag("div", tag("b", preview.trigger), f": would be {preview.outcome}"), table(columns, rows))
    return Card(html, "\n".join((head, *aligned(columns, rows))))


def why_card(why: Why) -> Card:
    lines = why.lines() or ["never received, or filtered before the oldest outcome in memory"]
    html = tag("div", tag("div", "event ", tag("b", why.event_id)), bullets(lines))
    return Card(html, "\n".join((f"event {why.event_id}", *(f"  {line}" for line in lines))))
