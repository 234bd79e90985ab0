"""What the Lab says about itself: its status, what would become of an event, what became of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sagaz_lab.model.run import Outcome, Run
from sagaz_lab.runtime.away import Away
from sagaz_lab.runtime.compiled import TriggerState
from sagaz_lab.runtime.pump import Pump
from sagaz_lab.runtime.verdicts import Verdict, said_by


@dataclass(frozen=True, slots=True)
class SourceStatus:
    name: str
    state: str
    since: float
    error: str
    received: int
    read_by: Sequence[str]


@dataclass(frozen=True, slots=True)
class TriggerStatus:
    name: str
    source: str
    state: str
    revision: int
    counts: Mapping[str, int]
    running: int

    def __getattr__(self, name: str) -> int:
        try:
            return self.counts[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True, slots=True)
class RunProgress:
    run_id: str
    saga: str
    revision: int
    actions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Status:
    """How things stand. `warnings` are the problems reported last, newest last; `away` is what the last start found."""

    started: bool
    sources: Sequence[SourceStatus]
    triggers: Sequence[TriggerStatus]
    runs: Sequence[RunProgress]
    warnings: Sequence[str]
    away: Away | None = None

    @property
    def runs_in_flight(self) -> int:
        return len(self.runs)

    def __repr__(self) -> str:
        sources = ", ".join(f"{s.name} {s.state}" for s in self.sources) or "no source started"
        return f"Status({sources}; {len(self.triggers)} trigger(s), {self.runs_in_flight} run(s) in flight)"


def source_status(pump: Pump) -> SourceStatus:
    state = pump.state
    blocking = [s.name for s in pump.states if s.room() == 0 and not s.paused]
    if state == "connected" and blocking:
        state = f"blocked by {', '.join(blocking)}"
    return SourceStatus(
        str(pump.spec), state, pump.since, pump.error, pump.received, tuple(s.name for s in pump.states)
    )


def trigger_status(state: TriggerState, started: bool) -> TriggerStatus:
    stands = "removed" if state.removed else "paused" if state.paused else "running" if started else "stopped"
    trigger = state.compiled.trigger
    return TriggerStatus(
        state.name,
        str(trigger.spec),
        stands,
        state.compiled.definition.revision,
        state.counters.as_dict(),
        state.admission.in_flight,
    )


def run_progress(run: Run, now: float) -> RunProgress:
    actions = {}
    for step in run.steps.values():
        if step.stopping_since is not None:
            actions[step.name] = f"has been stopping for {now - step.stopping_since:.0f} s: a thread cannot be killed"
        elif step.progress is not None:
            done, total, note = step.progress
            actions[step.name] = f"{done:g}" + (f" of {total:g}" if total else "") + (f" {note}" if note else "")
        else:
            actions[step.name] = "running"
    return RunProgress(run.run_id, run.definition.name, run.definition.revision, actions)


@dataclass(frozen=True, slots=True)
class Why:
    """What became of an event, for each trigger that saw it, and of its runs."""

    event_id: str
    outcomes: Sequence[Outcome]
    runs: Sequence[Mapping[str, Any]]
    verdicts: Sequence[Sequence[Verdict]] = ()
    """For each outcome what every gate said; nothing for a trigger that is gone."""

    def __repr__(self) -> str:
        if not self.outcomes:
            return f"Why({self.event_id}: not seen here, or filtered longer ago than outcomes are kept)"
        return "Why(" + self.event_id + ": " + "; ".join(self.lines()) + ")"

    def lines(self) -> list[str]:
        ends = {run["run_id"]: run for run in self.runs}
        lines = []
        for i, outcome in enumerate(self.outcomes):
            facts = "".join(f", {name}={value!r}" for name, value in (outcome.facts or {}).items())
            line = f"{outcome.trigger} r{outcome.revision}: {outcome.kind}"
            line += f" ({outcome.reason}{facts})" if outcome.reason or facts else ""
            if outcome.run_id and (run := ends.get(outcome.run_id)):
                line += f", run {outcome.run_id} {run['status']}" + (f": {run['error']}" if run.get("error") else "")
            lines.append(line)
            if i < len(self.verdicts) and self.verdicts[i]:
                lines.append(f"  gates: {said_by(self.verdicts[i])}")
        return lines
