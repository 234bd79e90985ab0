"""Hints about triggers that work, but perhaps not as intended."""

from __future__ import annotations

from collections.abc import Mapping

from sagaz_lab.model.event import OWN_FIELDS, Event, payload_as_sent
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.lifetime.tasks import Report
from sagaz_lab.runtime.triggers.state import TriggerState

SLOW_S = 0.05
"""Slower decisions are reported, since they block the loop."""


def report_slow(report: Report, decided: Decided) -> None:
    if decided.took_s > SLOW_S and not decided.state.compiled.is_async:
        name, took_ms = decided.state.name, decided.took_s * 1000
        what = "an event" if decided.events == 1 else f"{decided.events} events"
        report(
            f"slow:{name}",
            f"trigger {name} took {took_ms:.0f} ms for {what}, and blocked the loop; let an action do the work",
        )


def report_hidden_fields(report: Report, state: TriggerState, event: Event) -> None:
    ours = state.compiled.trigger.spec.traits.own_payload or "sagaz-id" in event.headers
    payload = payload_as_sent(event)
    if isinstance(payload, Mapping) and not ours:
        state.reported_hidden_fields = True
        try:
            hidden = sorted(OWN_FIELDS.intersection(payload))
        except BaseException:  # noqa: BLE001  the user's mapping cannot be read, and this is only a hint
            return
        if hidden:
            names = ", ".join(hidden)
            report(
                "hidden",
                f"{state.name}: the payload has fields that the event also has ({names}); "
                f"event.{hidden[0]} is the event's own, event[{hidden[0]!r}] the payload's",
            )


def report_repeated_ticks(report: Report, decided: Decided) -> None:
    """A tick has one start: a repetition means that the clock was set back or a process died."""
    if decided.state.compiled.overlap is None:
        return
    for kind, reason, event_id, trigger, *_ in decided.entries:
        if kind == "duplicate":
            report(f"tick:{trigger}", f"{trigger}: tick {event_id}: {reason}")


def report_claimed(report: Report, decided: Decided, own_runs: str) -> None:
    """The first duplicate of a trigger that has started nothing yet, if the first run belongs to another process."""
    state = decided.state
    reason, event_id = next(it[1:3] for it in decided.entries if it[0] == "duplicate")
    earlier = " run " in reason and f" run {own_runs}" not in reason
    state.told_claimed = earlier or state.counters.started > 0
    if earlier and not state.counters.started:
        report(
            f"claimed:{state.name}",
            f"{state.name}: event {event_id} starts nothing: {reason}. Another process started that run, before "
            "this one or beside it; %triggers start --fresh, or lab.start(fresh=True), forgets all earlier claims",
        )
