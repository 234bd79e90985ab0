"""The findings of a start: how long the triggers were down, what was missed and what resumes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sagaz_lab.abc import Missed

RESUME = ("all", "last", "none")
"""Which interrupted runs a start resumes: all, the newest of each saga, or none."""

AWAY = "away"
"""The kind of its report."""

TELL_S = 60.0
"""A longer absence is reported even if nothing was missed."""

NAMED = 5
"""Runs listed by name, per kind."""


@dataclass(slots=True)
class Found:
    """The interrupted runs: the saga by run id. `waited` counts events without a run yet; `events_need_code` those of
    unregistered triggers.
    """

    resumed: dict[str, str] = field(default_factory=dict)
    needs_code: dict[str, str] = field(default_factory=dict)
    events_need_code: Mapping[str, int] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    waited: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StartReport:
    """The findings of a start. Each mapping of runs has the saga by run id.

    `away_s` is how long these triggers were down, to a few seconds; 0 if they never ran. `missed` has the ticks by
    trigger. `resumed` runs continue, `needs_code` once their saga is defined, `left` only on request. `events_waited`
    counts events that still wait, in a window or for their turn; `events_need_code`, by trigger, those in windows of
    unregistered triggers.
    """

    away_s: float
    missed: Mapping[str, Missed]
    resumed: Mapping[str, str]
    needs_code: Mapping[str, str]
    left: Mapping[str, str]
    events_waited: int
    events_need_code: Mapping[str, int] = field(default_factory=dict)

    @property
    def ticks_missed(self) -> int:
        """Over all triggers."""
        return sum(missed.due for missed in self.missed.values())

    @property
    def lasted(self) -> bool:
        """Whether the absence is worth a report."""
        return self.away_s >= 1.0

    @property
    def is_worth_reporting(self) -> bool:
        runs = self.resumed or self.needs_code or self.left
        found = self.missed or runs or self.events_waited or self.events_need_code
        return bool(found) or self.away_s > TELL_S

    def headline(self) -> str:
        """One line: "away 2 h 10 min: 14 ticks missed, 3 runs resumed"."""
        facts = [
            _counted(self.ticks_missed, "tick", "missed"),
            _counted(len(self.resumed), "run", "resumed"),
            _counted(len(self.needs_code), "run", "waiting for code"),
            _counted(len(self.left), "run", "left as it was" if len(self.left) == 1 else "left as they were"),
            _counted(self.events_waited, "event", "waiting since then"),
            _counted(sum(self.events_need_code.values()), "event", "waiting for code"),
        ]
        found = ", ".join(filter(None, facts))
        if not self.lasted:
            return found
        return f"away {spoken(self.away_s)}: {found or 'nothing missed, nothing to resume'}"

    def lines(self) -> Iterator[str]:
        """What was done about each, and how to change that."""
        for name, missed in self.missed.items():
            yield (
                f"{name}: {_counted(missed.due, 'tick', 'missed')}, {_come(missed)}; "
                'its trigger\'s missed="all", "last" or "none" sets this'
            )
        if self.resumed:
            yield (
                f"resumed: {_named(self.resumed)}; lab.compensate_run(id) undoes one, "
                'lab.start(resume="last") or "none" resumes fewer'
            )
        if self.needs_code:
            yield f"waiting for code: {_named(self.needs_code)}; each resumes when its saga is defined"
        if self.left:
            yield (
                f"left: {_named(self.left)}; lab.resume_run(id) resumes one, lab.compensate_run(id) undoes one, "
                'lab.start(resume="all") resumes all'
            )
        if self.events_waited:
            yield f"{_counted(self.events_waited, 'event', 'waited')} in windows or for their turn, and will be decided"
        for trigger, events in self.events_need_code.items():
            yield f"{_counted(events, 'event', 'waiting')} in windows of {trigger}, decided when it is defined"

    def __repr__(self) -> str:
        return f"StartReport({self.headline() or 'nothing missed'})"


def spoken(seconds: float) -> str:
    """The two largest units: "2 h 10 min", "45 s"."""
    left, parts = round(seconds), list[tuple[int, str]]()
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        n, left = divmod(left, size)
        if n or parts:
            parts.append((n, unit))
    return " ".join(f"{n} {unit}" for n, unit in parts[:2] if n) or "0 s"


def _counted(n: int, what: str, how: str) -> str:
    return f"{n} {what}{'s' if n != 1 else ''} {how}" if n else ""


def _come(missed: Missed) -> str:
    if missed.come == 0:
        return "none is delivered"
    if missed.come >= missed.due:
        return "delivered now" if missed.due == 1 else "all delivered now"
    return "the last one delivered now" if missed.come == 1 else f"the last {missed.come} delivered now"


def _named(runs: Mapping[str, str]) -> str:
    named = [f"{run_id} ({saga})" for run_id, saga in list(runs.items())[:NAMED]]
    return ", ".join(named) + (f" and {len(runs) - NAMED} more" if len(runs) > NAMED else "")
