"""Cards of shadows: the compared revision, the counts and the differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sagaz_lab.hosting.shadows import ShadowReport, Shadows
from sagaz_lab.notebook.cards import DIFF_LINES, coloured, with_facts
from sagaz_lab.notebook.markup import Card, Markup, aligned, bullets, shortened, table, tag
from sagaz_lab.runtime.shadow.comparison import Difference

SHOWN = 20
"""Newest differences on a card; `.frame()` has all stored ones."""

_COUNT_COLUMNS = ("current", "shadow", "events")
_COLUMNS = ("event", "trigger", "current", "shadow", "what differs")


def shadow_card(report: ShadowReport) -> Card:
    head, counts = _headline(report), shadow_counts(report)
    notes, hints = list(report.notes), _hints(report)
    if report.missed:
        notes.append(f"{report.missed} events were not compared: they arrived faster than the shadow processes them")
    diff = list(report.change.diff)
    if len(diff) > DIFF_LINES:
        diff[DIFF_LINES:] = [f"... {len(diff) - DIFF_LINES} more lines"]
    kinds = [(*pair, count) for pair, count in report.different.items()]
    rows = [_row(one) for one in report.differences[:SHOWN]]
    more = f"... and {len(report.differences) - SHOWN} more" if len(report.differences) > SHOWN else ""
    changed = tag("details", tag("summary", "what changed"), tag("pre", *coloured(diff))) if diff else ""
    parts = [tag("div", tag("b", report.saga), f": {head}"), tag("div", counts), bullets(notes),
             table(_COUNT_COLUMNS, kinds), table(_COLUMNS, rows), more, changed,
             tag("div", *(tag("div", hint) for hint in hints), style="opacity:.8")]  # fmt: skip
    text = [f"{report.saga}: {head}", f"  {counts}", *(f"  ! {note}" for note in notes)]
    text += [*aligned(_COUNT_COLUMNS, kinds), *aligned(_COLUMNS, rows), *filter(None, [more]), *diff, *hints]
    return Card(tag("div", *parts), "\n".join(text))


def shadows_card(shadows: Shadows) -> Card:
    cards = [shadow_card(report) for report in shadows.values()]
    if not cards:
        none = "no shadows; begin one with %%saga --shadow"
        return Card(tag("div", none), none)
    return Card(tag("div", *(card.html for card in cards)), "\n".join(card.text for card in cards))


def shadow_line(report: ShadowReport) -> str:
    return f"saga {report.saga}: {_headline(report)}; %triggers shadow {report.saga} shows it"


def shadow_counts(report: ShadowReport) -> str:
    counts = f"{report.seen} seen, {report.same} the same, {sum(report.different.values())} different"
    return f"since {report.since:%H:%M:%S %Z}: {counts}, {report.waiting} waiting"


def _headline(report: ShadowReport) -> str:
    new = f"it would be revision {report.change.revision}" if report.change.is_new else "same code"
    return f"{'ended ' if report.ended else ''}shadow of revision {report.current}; {new}"


def _hints(report: ShadowReport) -> list[str]:
    if report.ended:
        return []
    name = f"'{report.saga}'" if " " in report.saga else report.saga
    return [f"%triggers shadow {name} shows the current comparison; --end ends it",
            "run the cell without --shadow to make it current"]  # fmt: skip


def _row(one: Difference) -> tuple[str | Markup, ...]:
    current = _made(one.current, one.current_reason, one.current_facts)
    shadow = _made(one.shadow, one.shadow_reason, one.shadow_facts)
    return one.event_id, one.trigger, current, shadow, shortened(f"{one.what} {one.details}".strip(), 300)


def _made(kind: str, reason: str, facts: Mapping[str, Any] | None) -> str:
    told = with_facts(reason, facts)
    return f"{kind} ({told})" if told else kind
